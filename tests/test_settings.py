"""Settings: each says what it is, what it may be and where its default comes from, and refuses what it may not be."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.config import Range, build, told
from stvg.errors import UsageError
from stvg.heads.fsm.fusion import FusionConfig
from stvg.heads.settings import TrainConfig
from stvg.heads.table import HEADS

from .settings_page import PAGE, described, page, settings_of

KINDS = [TrainConfig, FusionConfig, *(kind for row in HEADS.values() for kind in (row.config, row.loss))]
RANGED = [
    (kind, each.name, each.metadata["within"])
    for kind in KINDS
    for each in fields(kind)
    if each.metadata.get("within") is not None
]


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/settings_page.py writes it anew"


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_says_what_it_is_and_where_its_default_comes_from(kind):
    for name, each, text, _ in settings_of(kind):
        assert text, f"{kind.__name__}.{name} has no description"
        assert each.metadata.get("source") or name == "head", f"{kind.__name__}.{name} has no source"


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_are_those_of_settings(kind):
    assert set(described(kind)) >= {each.name for each in fields(kind) if not each.name.startswith("fusion")}


@pytest.mark.parametrize(("kind", "name", "within"), RANGED, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_setting_outside_of_its_range_is_refused_with_the_range(kind, name, within):
    outside = "nothing" if isinstance(within, tuple) else within.low if within.low_open else within.low - 1
    with pytest.raises(ValueError, match=name) as error:
        kind(**{name: outside})
    assert told(within) in str(error.value)


def test_a_file_with_a_setting_out_of_range_is_refused_by_name():
    with pytest.raises(UsageError, match=r"a.yaml: ema is 1.0, expected at least 0, less than 1"):
        build(TrainConfig, {"ema": 1.0}, "a.yaml")


@given(st.floats(), st.floats(-5, 5), st.floats(0, 5), st.booleans(), st.booleans())
def test_a_range_holds_the_finite_numbers_between_its_ends(value, low, width, low_open, high_open):
    held = value in Range(low, low + width, low_open, high_open)
    above = value > low if low_open else value >= low
    below = value < low + width if high_open else value <= low + width
    assert held == (math.isfinite(value) and above and below)


@pytest.mark.parametrize(
    ("within", "text"),
    [
        (Range(0), "at least 0"),
        (Range(0, low_open=True), "more than 0"),
        (Range(0, 1), "at least 0, at most 1"),
        (Range(0, 1, high_open=True), "at least 0, less than 1"),
        (("a", "b"), "a, b"),
    ],
)
def test_a_range_reads_as_a_sentence(within, text):
    assert told(within) == text
