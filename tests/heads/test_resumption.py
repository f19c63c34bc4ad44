"""A run goes on with what leaves the steps it took as they were, and refuses the rest with the reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from stvg.cache.index import Cache
from stvg.errors import CheckpointError
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.settings import TrainConfig, load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.resumption import Standing
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
SMALL = (
    "model.ffn=32",
    "train.batch_size=16",
    "train.log_every=1",
    "train.warmup=0",
    "train.lr_drop=2",
    "train.ema=0.9",
)


def start(cache, folder, *settings):
    return Run(folder, Cache.open(cache), load_experiment("tiny", [*SMALL, "train.epochs=1", *settings]), "train", CPU)


@pytest.fixture(scope="module")
def trained(tiny_cache, tmp_path_factory):
    """The folder of a finished run of one epoch. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    train(start(tiny_cache, folder))
    return folder


@pytest.fixture
def stopped(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "stopped")


def test_more_epochs_give_the_weights_of_a_run_that_asked_for_them_at_once(tiny_cache, stopped, tmp_path):
    more = start(tiny_cache, stopped, "train.epochs=3", "train.save_every=1", "train.log_every=2", "train.eval_every=1")
    assert more.resume()
    assert "train.epochs: run has 1, asked for 3" in more.changed
    train(more)
    train(start(tiny_cache, tmp_path / "whole", "train.epochs=3"))
    a, b = (load_checkpoint(folder / "last.safetensors").tensors for folder in (stopped, tmp_path / "whole"))
    assert all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize("setting", ["log_every=5", "save_every=7", "eval_every=3", "recompute=true", "lr_drop=5"])
def test_what_changes_no_step_may_be_another(tiny_cache, stopped, setting):
    run = start(tiny_cache, stopped, f"train.{setting}")
    assert run.resume()
    assert f"train.{setting.partition('=')[0]}: run has" in run.changed


@pytest.mark.parametrize(
    "setting", ["train.lr=1", "train.seed=1", "train.batch_size=8", "loss.span=1", "train.warmup=1"]
)
def test_what_changes_a_step_is_refused(tiny_cache, stopped, setting):
    with pytest.raises(CheckpointError, match="another experiment") as refused:
        start(tiny_cache, stopped, setting).resume()
    assert setting.partition("=")[0] in refused.value.facts["settings"]


def test_a_schedule_that_more_epochs_stretch_is_refused_with_the_reason_and_a_way_to_keep_it():
    then = TrainConfig(epochs=10, warmup=0.1, schedule="stepped")
    stretched = Standing(30, 20, replace(then, epochs=20), ["head"])
    why, hint = stretched.obstacle({"epochs": 10})
    assert "learning rate (head) of step 1 was" in why
    assert "--set train.warmup=0.05 keeps its 20 steps of warm-up" in hint
    kept = Standing(30, 20, replace(then, epochs=20, warmup=0.05), ["head"])
    assert kept.obstacle({"epochs": 10, "warmup": 0.1}) == ("", None)


def test_a_text_encoder_whose_rate_falls_to_zero_at_the_end_takes_no_more_epochs():
    config = TrainConfig(epochs=4, warmup=0)
    why, _ = Standing(5, 5, config, ["head", "text"]).obstacle({"epochs": 2})
    assert "learning rate (text)" in why
    assert Standing(5, 5, config, ["head"]).obstacle({"epochs": 2}) == ("", None)


def test_a_drop_that_was_taken_stays_where_it_was():
    config = TrainConfig(epochs=4, warmup=0, lr_drop=3)
    assert Standing(5, 5, config, ["head"]).obstacle({"lr_drop": 2}) == ("", None)
    why, _ = Standing(12, 5, config, ["head"]).obstacle({"lr_drop": 2})
    assert "of step 11 was" in why


def test_a_run_that_went_further_than_is_asked_for_is_left_as_it_is(tiny_cache, stopped):
    run = start(tiny_cache, stopped, "train.epochs=0")
    before = (stopped / "last.safetensors").read_bytes()
    assert run.resume()
    train(run)
    assert (stopped / "last.safetensors").read_bytes() == before


def test_other_videos_in_the_cache_are_refused_by_name(own_cache, tmp_path):
    unit = sorted((own_cache / "videos").iterdir())[0]
    moved = unit.rename(tmp_path / unit.name)
    fewer = start(own_cache, tmp_path / "run", "train.epochs=1")
    train(fewer)
    moved.rename(unit)
    with pytest.raises(CheckpointError, match="trained on other data than the cache holds now") as refused:
        start(own_cache, tmp_path / "run", "train.epochs=1").resume()
    assert f"1 video added: {unit.name.split('.')[0]}" in refused.value.facts["found"]
    assert json.dumps(fewer.data.to_json()) in json.dumps(load_checkpoint(tmp_path / "run/last.safetensors").facts)


def test_other_validation_samples_begin_the_choice_of_the_best_anew(tiny_cache, tmp_path):
    run = start(tiny_cache, tmp_path)
    run.open_validation("test")
    train(run, validate=lambda _: {"m_vIoU": 0.5})
    best = load_checkpoint(tmp_path / "best.safetensors").facts
    assert (best["selected"], best["held_out"]["split"]) == (True, "test")
    same, other = start(tiny_cache, tmp_path), start(tiny_cache, tmp_path)
    same.open_validation("test")
    assert same.resume()
    assert (same.best, same.validated) == (0.5, run.step)
    assert other.resume()
    assert (other.best, other.validated) == (-torch.inf, 0)
    train(other)  # without validation: the best is the last
    assert not load_checkpoint(tmp_path / "best.safetensors").facts["selected"]


def test_a_checkpoint_with_trained_parameters_that_would_not_train_now_is_refused(tiny_cache, stopped):
    run = start(tiny_cache, stopped)
    run.optimizer.param_groups[0]["params"].pop()
    with pytest.raises(CheckpointError, match="would not train now") as caught:
        run.resume()
    assert "the run was not continued" in str(caught.value)
