"""The list of runs says of every run what it was asked for, how far it is, and what it scored."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from stvg.errors import UsageError
from stvg.evaluate.runs import format_runs, list_runs, ordered
from stvg.heads.training.owner import OWNER, Lock

SMALL = ["--set", "train.epochs=1", "--set", "train.batch_size=8", "--set", "model.ffn=32", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tiny_cache, tmp_path_factory):
    """Runs of three heads: one validated, one scored, one stopped half-way; and one whose record is damaged."""
    from stvg.cli import cli

    runs = tmp_path_factory.mktemp("runs")

    def call(*words: object) -> None:
        cli.main([*map(str, words)], standalone_mode=False)

    def train(name: str, *words: str) -> None:
        call("train-head", "--cache", tiny_cache, "--out", runs / name, "--preset", "tiny", *SMALL, *words)

    train("a/fsm", "--val-split", "test")
    train("a/tubedetr", "--set", "model.head=tubedetr")
    best, scores = runs / "a/tubedetr/best.safetensors", runs / "a/tubedetr/test.json"
    call(
        "evaluate", "--checkpoint", best, "--cache", tiny_cache, "--split", "test", "--json", scores, "--device", "cpu"
    )
    shutil.copytree(runs / "a/fsm", runs / "b")
    record = json.loads((runs / "b/record.json").read_text())
    record["request"]["experiment"]["train"]["epochs"] = 2
    del record["request"]["preset"]  # as in runs of earlier versions
    (runs / "b/record.json").write_text(json.dumps(record))
    (runs / "b/metrics.jsonl").unlink()
    shutil.copytree(runs / "b", runs / "c")
    (runs / "c/record.json").write_text("{")
    shutil.copytree(tiny_cache, runs / "d/cache")  # its units have records, too
    (runs / "wandb/x").mkdir(parents=True)
    (runs / "wandb/x/record.json").write_text("of another program")
    return runs


def test_every_run_has_a_row_with_its_facts_and_scores(folder):
    found = list_runs(folder).set_index("run")
    assert list(found.index) == ["a/fsm", "a/tubedetr", "b", "c"]
    assert found.loc["a/fsm", ["preset", "head", "cache", "state"]].tolist() == ["tiny", "fsm", "cache", "finished"]
    assert re.fullmatch(r"(\d+)/\1", found.loc["a/fsm", "steps"])
    assert found.loc["a/tubedetr", "head"] == "tubedetr"
    assert found.loc["b", "state"] == "stopped"
    assert found.loc["c", "state"] == "record.json cannot be read"
    (line,) = [
        json.loads(text) for text in (folder / "a/fsm/metrics.jsonl").read_text().splitlines() if "validation" in text
    ]
    assert found.loc["a/fsm", "scored on"] == "test, best epoch"
    assert found.loc["a/fsm", "m_vIoU"] == pytest.approx(100 * line["validation"]["m_vIoU"])
    samples = json.loads((folder / "a/tubedetr/test.json").read_text())["samples"]
    assert found.loc["a/tubedetr", "scored on"] == "test"
    assert found.loc["a/tubedetr", "m_tIoU"] == pytest.approx(100 * sum(s["tIoU"] for s in samples) / len(samples))


def test_a_run_that_trains_now_is_said_to_be_running(folder, tmp_path):
    run = shutil.copytree(folder / "a/fsm", tmp_path / "fsm")
    lock = Lock(run)
    lock.take()
    try:
        assert list_runs(tmp_path)["state"].tolist() == ["running"]
    finally:
        lock.give_back()
    owner = {**json.loads(json.dumps(vars(lock.me))), "host": "elsewhere/1"}
    (run / OWNER).write_text(json.dumps(owner))
    assert list_runs(run)["state"].tolist() == ["running"]
    (run / OWNER).write_text("{")
    assert list_runs(tmp_path)["state"].tolist() == ["finished"]


def test_rows_are_ordered_by_any_column_and_scores_from_the_highest_on(folder):
    runs = list_runs(folder)
    by_score = ordered(runs, "m_vIoU")["m_vIoU"].tolist()
    assert by_score[:2] == sorted(by_score[:2], reverse=True)
    assert all(score != score for score in by_score[2:])
    assert ordered(runs, "head")["head"].tolist()[0] == "fsm"
    with pytest.raises(UsageError, match="no column 'm_viou'") as caught:
        ordered(runs, "m_viou")
    assert "m_vIoU" in caught.value.facts["hint"]


def test_every_style_has_the_same_rows(folder, stvg):
    terminal = stvg("runs", folder, "--sort", "m_vIoU")
    assert terminal.code == 0, terminal.err
    assert terminal.out.splitlines()[0].split()[:5] == ["run", "preset", "head", "cache", "state"]
    runs = list_runs(folder)
    rows = list(csv.reader(io.StringIO(format_runs(runs, "csv"))))
    assert rows[0] == list(runs.columns)
    assert rows[1][:4] == ["a/fsm", "tiny", "fsm", "cache"]
    assert rows[3][1] == ""
    markdown = format_runs(runs, "markdown").splitlines()
    assert len(markdown) == 2 + len(runs)
    assert len({line.count("|") for line in markdown}) == 1
    latex = format_runs(runs, "latex")
    assert r"m\_vIoU" in latex
    assert latex.count(r"\\") == 1 + len(runs)


def test_a_folder_without_runs_is_said_to_be_one(stvg, tmp_path):
    ran = stvg("runs", tmp_path)
    assert ran.code == 1
    assert "holds no run" in ran.err
    assert stvg("runs", Path(tmp_path, "none")).code == 1
