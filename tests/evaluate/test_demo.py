"""The demo goes on where it was interrupted, follows a quick one, and touches nothing that is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stvg.errors import UsageError
from stvg.evaluate.demo.folder import OWN, RECORD, claim, write_folder
from stvg.evaluate.demo.run import Size, run_demo

SMALL = Size(train=4, test=2, settings=("train.epochs=2", "train.lr_drop=1"))
QUICK, FULL = {"quick": True, "seed": 0, "train": 4}, {"quick": False, "seed": 0, "train": 9}


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("QUICK", SMALL), ("FULL", Size(5, 2, SMALL.settings))):
        monkeypatch.setattr(f"stvg.evaluate.demo.run.{name}", size)
    monkeypatch.setattr("stvg.evaluate.demo.run.os.cpu_count", lambda: 1)


def test_a_demo_interrupted_at_every_stage_goes_on_to_the_same_predictions(tmp_path: Path) -> None:
    run_demo(tmp_path / "whole", quick=True, seed=0, say=lambda text: None)
    passed: list[str] = []

    def say(text: str) -> None:
        stage = text.partition("] ")[2]
        if text.startswith("[") and stage not in passed and "going on" not in stage:
            passed.append(stage)
            raise Killed

    kills = 0
    while True:
        try:
            run_demo(tmp_path / "broken", quick=True, seed=0, say=say, report=True)
            break
        except Killed:
            kills += 1
    assert kills == len(passed) > 6
    assert sum(stage.startswith("drawing") for stage in passed) == 1
    whole, broken = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "broken"))
    assert whole == broken
    assert (tmp_path / "broken/report.html").exists()


def test_a_full_demo_follows_a_quick_one_in_the_same_folder(tmp_path: Path) -> None:
    said: list[str] = []
    run_demo(tmp_path / "demo", quick=True, seed=0, say=said.append)
    mine = tmp_path / "demo/predicted/notes.txt"
    mine.parent.mkdir()
    mine.write_text("the user's")
    quick = (tmp_path / "demo/predictions.jsonl").read_bytes()
    run_demo(tmp_path / "demo", quick=False, seed=0, say=said.append)
    assert (tmp_path / "demo/quick/predictions.jsonl").read_bytes() == quick
    assert mine.read_text() == "the user's"
    assert json.loads((tmp_path / "demo" / RECORD).read_text())["train"] == 5
    assert len(list((tmp_path / "demo/data/vidor/video").rglob("*.mp4"))) == 7
    with pytest.raises(UsageError, match="holds a demo with other options"):
        run_demo(tmp_path / "demo", quick=True, seed=0, say=said.append)


@pytest.mark.parametrize(("first", "then"), [(FULL, FULL | {"seed": 1}), (QUICK, FULL | {"seed": 1}), (FULL, QUICK)])
def test_other_options_are_named_and_nothing_is_touched(tmp_path: Path, first: dict, then: dict) -> None:
    assert not claim(tmp_path / "demo", first)
    (tmp_path / "demo/data").mkdir()
    before = (tmp_path / "demo" / RECORD).read_bytes()
    with pytest.raises(UsageError, match="other options") as caught:
        claim(tmp_path / "demo", then)
    assert caught.value.facts["found"] == ("--quick --seed 0" if first is QUICK else "--seed 0")
    assert (tmp_path / "demo/data").exists()
    assert (tmp_path / "demo" / RECORD).read_bytes() == before


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
