"""Tables: the figures are the scores, each table says how it was scored, published rows only where they belong."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from stvg.cache.sampling import Sampling
from stvg.errors import UsageError
from stvg.evaluate.metrics import METRICS, SampleScore, Scores
from stvg.evaluate.styles import STYLES, Written, render, write_table
from stvg.evaluate.tables import COLUMNS, format_table

LIMITS = ("50.00", "25.00", "0.00", "0.00", "12.50")
MEANS = dict(zip(METRICS, (0.47156, 0.34, 1.0, 0.0, 0.123449), strict=True))


def some_scores(
    *groups: str, protocol: str = "tubedetr", scored: int = 1158, missing: Any = ("a.mp4", "b.mp4")
) -> Scores:
    """Means that were made up, over two samples; their intervals follow from the samples alone."""
    groups = groups or ("all",)
    samples = [SampleScore(i, f"v{i}", "a sentence", g, 0.5, 0.25, 0.125) for g in groups for i in range(2)]
    return Scores(protocol, Sampling(5, 100), scored, list(missing), dict.fromkeys(groups, MEANS), samples)


def test_the_terminal_table_is_this() -> None:
    assert format_table(some_scores(), dataset="hcstvg-v2", split="val") == (
        "group   source        m_tIoU      m_vIoU   vIoU@0.3   vIoU@0.5     gt_vIoU\n"
        "──────────────────────────────────────────────────────────────────────────\n"
        "all     this run       47.16       34.00     100.00       0.00       12.34\n"
        "                   50.0–50.0   25.0–25.0    0.0–0.0    0.0–0.0   12.5–12.5\n"
        "\n"
        "hcstvg-v2 val; protocol tubedetr; frames sampled at 5 fps, at most 100; "
        "1,158 of 1,160 samples scored (2 without a prediction left out).\n"
    )


def test_the_markdown_table_is_this() -> None:
    assert format_table(some_scores(missing=()), style="markdown", run="a|b").splitlines() == [
        "| group   | source   |          m_tIoU |          m_vIoU |       vIoU@0.3 |     vIoU@0.5 |         gt_vIoU |",
        "|:--------|:---------|----------------:|----------------:|---------------:|-------------:|----------------:|",
        "| all     | a\\|b     | 47.16 50.0–50.0 | 34.00 25.0–25.0 | 100.00 0.0–0.0 | 0.00 0.0–0.0 | 12.34 12.5–12.5 |",
        "",
        "protocol tubedetr; frames sampled at 5 fps, at most 100; 1,158 of 1,158 samples scored.",
    ]


def test_every_csv_line_is_data() -> None:
    whole = some_scores(scored=1160, missing=())
    text = format_table(whole, dataset="hcstvg-v1", split="test", style="csv", run="mine, the second")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["source"] for row in rows] == ["mine, the second", "FSM, paper, 224", "TubeDETR@352", "STCAT@224"]
    assert rows[0] == dict(
        zip(COLUMNS, ("all", "mine, the second", "47.16", "34.00", "100.00", "0.00", "12.34"), strict=True),
        **{f"{metric} {end}": x for metric, x in zip(METRICS, LIMITS, strict=True) for end in ("low", "high")},
        protocol="tubedetr",
        fps="5",
        max_frames="100",
        scored="1160",
        total="1160",
    )
    assert rows[1]["m_tIoU"] == "47.15"
    assert rows[1]["gt_vIoU"] == rows[1]["protocol"] == rows[1]["scored"] == ""


def test_the_latex_table_holds_what_a_paper_prints_and_escapes_what_latex_would_read() -> None:
    whole = some_scores(scored=1160, missing=())
    text = format_table(whole, dataset="hcstvg-v1", split="test", style="latex", run=r"50%_of\all")
    assert r"group & source & m\_tIoU & m\_vIoU & vIoU@0.3 & vIoU@0.5 & gt\_vIoU \\" in text
    assert r"all & 50\%\_of\textbackslash{}all & 47.16 & 34.00 & 100.00 & 0.00 & 12.34 \\" in text
    assert r"all & TubeDETR@352 & 43.70 & 32.40 & 49.80 & 23.50 & -- \\" in text
    assert text.count("{") == text.count("}")
    assert r"\caption{hcstvg-v1 test}" in text
    assert text.startswith("% hcstvg-v1 test; protocol tubedetr;")


WORDS = st.text(st.characters(codec="ascii"), max_size=12) | st.sampled_from(["é ±", "−3 × 2", "Δ ≤ –", "a & b \\\\ c"])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), WORDS, st.lists(WORDS, max_size=2))
def test_every_style_keeps_its_columns_whatever_the_texts(rows, title, notes) -> None:
    table = Written(DataFrame(rows, columns=["name", "x_y"]), "lr", title, notes)
    written = {style: write_table(table, style) for style in STYLES}
    body = [line for line in written["latex"].splitlines() if not line.startswith("%") and line.endswith(r"\\")]
    assert len(body) == len(rows) + 1
    assert {re.sub(r"\\.", "", line[:-2]).count("&") for line in body} == {1}
    assert [len(row) for row in csv.reader(io.StringIO(written["csv"], newline=""))] == [2] * (len(rows) + 1)
    cells = [line for line in written["markdown"].splitlines() if line.startswith("| ")]
    assert {re.sub(r"\\.", "", line).count("|") for line in cells[: len(rows) + 1]} == {3}


def test_protocols_that_score_every_frame_say_so_and_name_no_sampling() -> None:
    text = format_table(some_scores(protocol="hcstvg_official"))
    assert "protocol hcstvg_official; every source frame; 1,158 of 1,160" in text
    assert "2 without a prediction counted as 0" in text
    row = next(csv.DictReader(io.StringIO(format_table(some_scores(protocol="dense"), style="csv"))))
    assert (row["protocol"], row["fps"], row["max_frames"]) == ("dense", "", "")


def test_an_unknown_style_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="terminal, markdown, csv, latex"):
        format_table(some_scores(), style="html")


def test_text_cannot_steer_the_terminal_or_be_read_as_markup() -> None:
    hostile = "\x1b[2J[bold]\u202egnihton\u2069 💃 {x}"
    assert render(("a",), [[hostile]], "l").splitlines()[2] == "�[2J[bold]�gnihton� 💃 {x}"
