"""The record of a run: `train-head --from-record` repeats it bit for bit, says what changed, and refuses what must not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stvg.atomic import unit_name
from stvg.cache.index import Cache
from stvg.errors import UsageError
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.training.record import Record, counted

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


def test_a_record_says_which_videos_and_samples_and_is_not_repeated_on_others(stvg, recorded, own_cache, tmp_path):
    """The run trained on what ``tiny_cache`` holds; its copy loses a video."""
    training = json.loads((recorded / "record.json").read_text())["data"]["training"]
    assert (training["videos"], len(training["contents"]["videos"])) == (6, 6)
    assert training["samples"] == sum(count for count, _ in training["contents"]["videos"].values())
    video = next(iter(training["contents"]["videos"]))
    shutil.rmtree(own_cache / "videos" / unit_name(video))
    ran = stvg("train-head", "--from-record", recorded / "record.json", "--cache", own_cache, "--out", tmp_path / "y")
    assert ran.code == 1
    assert "for training: the cache holds other videos or samples" in ran.err
    assert f"1 video removed: {video}" in ran.err
    assert not (tmp_path / "y").exists()


def test_other_samples_to_validate_on_are_refused_as_well(recorded, tiny_cache):
    record, cache = Record.read(recorded / "record.json"), Cache.open(tiny_cache)
    then, now = (replace(record, data={"validation": counted(cache.contents(split))}) for split in ("train", "test"))
    assert isinstance(then.require_repeatable(then), str)
    with pytest.raises(UsageError, match="for validation"):
        then.require_repeatable(now)


def test_a_run_that_goes_on_otherwise_says_so_and_its_record_repeats_it_as_it_ended(stvg, recorded, tiny_cache):
    words = [w for s in [*SMALL, "train.epochs=2", "train.warmup=0.02"] for w in ("--set", s)]
    command = ("train-head", "--cache", tiny_cache, "--out", recorded, "--preset", "tiny", "--device", "cpu", *words)
    before = json.loads((recorded / "record.json").read_text())
    ran = stvg(*command)
    assert ran.code == 0, ran.err
    assert "not as it started: experiment.train.epochs: was 1, is 2" in ran.out
    after = json.loads((recorded / "record.json").read_text())
    assert after["request"]["experiment"]["train"]["epochs"] == 2
    assert [change["step"] for change in after["changes"]] == [
        load_checkpoint(recorded / "best.safetensors").facts["step"] // 2
    ]
    assert after["circumstances"] == before["circumstances"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "stvg run record 1"}', '{"format": "other"}'])
def test_what_is_no_record_is_refused(stvg, tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    ran = stvg("train-head", "--from-record", tmp_path / "record.json")
    assert ran.code == 1
    assert re.search(r"UsageError: .*record.json cannot be read as the record of a run", ran.err)
