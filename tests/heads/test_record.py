"""The record of a run: `train-head --from-record` repeats it bit for bit, says what changed, and refuses what must not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from stvg.heads.checkpoint import load_checkpoint

from ..conftest import extract_synthetic

SMALL = ["train.epochs=1", "train.batch_size=8", "model.ffn=32", "model.dropout=0.1", "train.ema=0.9", "train.seed=5"]


@pytest.fixture
def recorded(stvg, tiny_cache, tmp_path) -> Path:
    """The folder of a run."""
    words = [w for s in SMALL for w in ("--set", s)]
    ran = stvg(
        "train-head", "--cache", tiny_cache, "--out", tmp_path / "x", "--preset", "tiny", "--device", "cpu", *words
    )
    assert ran.code == 0, ran.err
    return tmp_path / "x"


def edited(record: Path, change) -> Path:
    content = json.loads(record.read_text())
    change(content)
    path = record.with_name("edited.json")
    path.write_text(json.dumps(content))
    return path


def test_a_record_repeats_its_run_bit_for_bit_and_says_what_is_not_as_it_was(stvg, recorded, tiny_cache, tmp_path):
    record = recorded / "record.json"
    content = json.loads(record.read_text())
    assert content["request"]["experiment"]["train"]["seed"] == 5
    assert content["circumstances"]["versions"]["torch"] == torch.__version__
    git = content["circumstances"]["git"]
    assert git is None or re.fullmatch("[0-9a-f]{40}", git["commit"])
    assert "train-head" in content["command"]
    older = edited(record, lambda r: r["circumstances"]["versions"].update(torch="1.0"))
    ran = stvg("train-head", "--from-record", older, "--out", tmp_path / "y")
    assert ran.code == 0, ran.err
    assert f"versions.torch: recorded 1.0, now {torch.__version__}" in ran.out
    for name in ("last", "best"):
        a, b = (load_checkpoint(tmp_path / k / f"{name}.safetensors") for k in ("x", "y"))
        assert a.facts == b.facts
        assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    again = json.loads((tmp_path / "y/record.json").read_text())
    assert again["request"] == content["request"]


def test_another_cache_and_options_that_the_record_holds_are_refused(stvg, recorded, synthetic, tmp_path):
    record, other = recorded / "record.json", extract_synthetic(synthetic, tmp_path / "cache", weights_seed=1)
    ran = stvg("train-head", "--from-record", record, "--cache", other, "--out", tmp_path / "y")
    assert ran.code == 1
    assert "UsageError: this is not what the recorded run trained on: another fingerprint" in ran.err
    assert not (tmp_path / "y").exists()
    for words, name in ((["--set", "train.lr=1"], "--set"), (["--preset", "paper"], "--preset")):
        ran = stvg("train-head", "--from-record", record, *words)
        assert ran.code == 2
        assert f"{name} does not go with --from-record" in ran.err
    assert stvg("train-head", "--out", tmp_path / "y").code == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "stvg run record 1"}', '{"format": "other"}'])
def test_what_is_no_record_is_refused(stvg, tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    ran = stvg("train-head", "--from-record", tmp_path / "record.json")
    assert ran.code == 1
    assert re.search(r"UsageError: .*record.json cannot be read as the record of a run", ran.err)
