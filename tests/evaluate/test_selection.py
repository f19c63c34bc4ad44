"""By default no test split chooses the best epoch; where a split that is scored did choose it, every score says so."""

from __future__ import annotations

import csv
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from stvg.cache.index import Cache
from stvg.evaluate.evaluation import validation
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.options import TrainRequest
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
SETTINGS = ("train.epochs=1", "train.batch_size=16", "model.ffn=32")


@pytest.fixture(scope="module")
def selected(tiny_cache, tmp_path_factory):
    """The folder of a run that chose its epoch on test. Read only."""
    folder = tmp_path_factory.mktemp("selected")
    run = Run(folder, Cache.open(tiny_cache), load_experiment("tiny", SETTINGS), "train", CPU)
    train(run, validation(run.open_validation("test"), 16, CPU, "tubedetr"))
    return folder


def test_a_cache_without_a_validation_split_validates_on_nothing_and_the_best_is_the_last(stvg, tiny_cache, tmp_path):
    words = [w for s in SETTINGS for w in ("--set", s)]
    command = ("train-head", "--cache", tiny_cache, "--preset", "tiny", "--device", "cpu", *words, "--out", tmp_path)
    ran = stvg(*command)
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["request"]["val_split"] == "none"
    assert record["selection"] == "none: best.safetensors is the last epoch"
    assert "validation" not in (tmp_path / "metrics.jsonl").read_text()
    best, last = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("best", "last"))
    assert best.facts["step"] == last.facts["step"]
    assert all(torch.equal(best.tensors[k], last.tensors[k]) for k in best.tensors)
    ran = stvg(*command, "--val-split", "test")  # asked for: the finished run is scored, and marked
    assert ran.code == 0, ran.err
    assert "request" not in ran.err
    assert "val_split: was none, is test" in ran.out
    record = json.loads((tmp_path / "record.json").read_text())
    assert "selected on this split" in record["selection"]
    assert load_checkpoint(tmp_path / "best.safetensors").facts["selected"]


def test_a_cache_with_a_validation_split_is_validated_on_it(tiny_cache):
    cache, asked = Cache.open(tiny_cache), TrainRequest("tiny", ())
    assert asked.request(cache, "cpu").val_split == "none"
    samples = SimpleNamespace(splits={*cache.samples.splits, "val"})
    with_val = SimpleNamespace(path=cache.path, annotations=cache.annotations, samples=samples)
    assert asked.request(with_val, "cpu").val_split == "val"


def test_scores_of_the_split_that_chose_the_epoch_are_marked_wherever_they_stand(stvg, selected, tiny_cache, tmp_path):
    line = json.loads((selected / "metrics.jsonl").read_text().splitlines()[-1])
    assert (line["split"], line["selected_on_this_split"]) == ("test", True)
    head = ("--checkpoint", selected / "best.safetensors", "--cache", tiny_cache, "--device", "cpu")
    files = ("--json", tmp_path / "s.json", "--export", "csv", tmp_path / "s.csv")
    for style in ("terminal", "markdown", "latex"):
        assert "selected on this split" in stvg("evaluate", *head, *files, "--style", style).out
    table = csv.DictReader(stvg("evaluate", *head, "--style", "csv").out.splitlines())
    assert {row["selected_on_this_split"] for row in table} == {"yes"}
    assert json.loads((tmp_path / "s.json").read_text())["selected_on_this_split"] is True
    assert {row["selected_on_this_split"] for row in csv.DictReader((tmp_path / "s.csv").read_text().splitlines())} == {
        "yes"
    }
    compared = stvg("evaluate", "--compare", tmp_path / "s.json", tmp_path / "s.json")
    assert "s.json is selected on this split" in compared.out
    page = tmp_path / "report.html"
    ran = stvg("report", *head, "--out", page, "--against", tmp_path / "s.json")
    assert ran.code == 0, ran.err
    text = page.read_text()
    assert "selected on this split: the checkpoint is the epoch that scored best on it" in text
    assert "validation on test, by which the epoch was selected" in text
    assert "samples in both, selected on this split." in text


def test_scores_of_another_split_or_of_the_last_epoch_are_not_marked(stvg, selected, tiny_cache, tmp_path):
    shutil.copy(selected / "last.safetensors", tmp_path / "last.safetensors")
    for name, split in ((selected / "best.safetensors", "train"), (tmp_path / "last.safetensors", "test")):
        ran = stvg("evaluate", "--checkpoint", name, "--cache", tiny_cache, "--split", split, "--device", "cpu")
        assert ran.code == 0, ran.err
        assert "selected on this split" not in ran.out
