"""STCAT through the table of heads: trained from a cache, gone on with, scored, and started from other heads' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stvg.cache.batches.order import clip_sizes, crop_draws
from stvg.cache.index import Cache
from stvg.cache.sampling import moment_slots
from stvg.errors import UsageError
from stvg.evaluate.evaluation import load_head, open_split, readings_of, score_split, tubes_of
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.initial import start_from
from stvg.heads.settings import Experiment, load_experiment
from stvg.heads.stcat.losses import TERMS
from stvg.heads.table import HEADS, build_model
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run, feature_facts

CPU = torch.device("cpu")
SMALL = (
    *("model.d=16", "model.heads=2", "model.ffn=32", "model.encoder_layers=1", "model.decoder_layers=2"),
    *("model.max_frames=6", "train.batch_size=4", "train.epochs=1", "train.lr=0.001", "train.warmup=0.1"),
)


def small(*more: str, preset: str = "stcat") -> Experiment:
    return load_experiment(preset, [*SMALL, *more])


@pytest.fixture(scope="module")
def trained(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(tmp_path_factory.mktemp("stcat"), Cache.open(tiny_cache), small("train.log_every=1"), "train", CPU)
    return train(run)


def test_a_run_logs_every_term_and_its_checkpoint_predicts(trained: Path, tiny_cache: Path) -> None:
    log = (trained.parent / "metrics.jsonl").read_text()
    assert all(f'"{name}"' in log for name in (*TERMS, "aux", "lr_late"))
    head = load_head(trained, CPU)
    dataset = open_split(head, Cache.open(tiny_cache), "test")
    tubes = tubes_of(head.model, dataset, 3, CPU)
    assert len(tubes) == len(dataset)
    for i in range(len(dataset)):
        clip, tube = dataset[i], tubes[dataset[i].sample.sample_id]
        assert tube.frames.tolist() == clip.frames.tolist(), "two passes see every slot"
        assert len(clip.frames) <= 12
        assert tube.frames[0] <= tube.start < tube.end <= tube.frames[-1] + 1
    scores = score_split(dataset, tubes, "dense")
    assert len(scores.samples) == len(dataset)


def test_the_evidence_is_that_of_the_tubes(trained: Path, tiny_cache: Path) -> None:
    head = load_head(trained, CPU)
    dataset = open_split(head, Cache.open(tiny_cache), "test")
    tubes = tubes_of(head.model, dataset, 3, CPU)
    for reading in readings_of(head.model, dataset, 3, CPU):
        tube, (attention,) = tubes[reading.tube.sample_id], reading.attention
        assert (reading.tube.start, reading.tube.end) == (tube.start, tube.end)
        assert attention.shape == (len(tube.frames),) * 2
        assert reading.start.sum() == pytest.approx(1, abs=1e-5)


def test_training_clips_are_spread_over_the_whole_clip(tiny_cache: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, Cache.open(tiny_cache), small(), "train", CPU)
    whole = Run(tmp_path, Cache.open(tiny_cache), small("model.max_frames=100"), "train", CPU)
    for i in range(len(run.dataset)):
        some, every = run.dataset[i].frames, whole.dataset[i].frames
        assert len(some) == min(6, len(every))
        assert (some[0], some[-1]) == (every[0], every[-1])
    assert run.dataset.extents[:, 0].tolist() == [len(run.dataset[i].frames) for i in range(len(run.dataset))]


def test_a_clip_is_cropped_before_it_is_spread_and_keeps_its_moment(tiny_cache: Path, tmp_path: Path) -> None:
    dataset = Run(tmp_path, Cache.open(tiny_cache), small(), "train", CPU).dataset
    closer = 0
    for i in range(len(dataset)):
        clip = dataset[i]
        every = clip.sample.frames(dataset.sampling.unthinned)
        for draws in np.random.default_rng(i).random((20, 3)):
            cropped = dataset.crop(clip, draws).frames
            assert len(cropped) <= 6
            assert set(cropped.tolist()) <= set(every.tolist())
            assert moment_slots(cropped, clip.sample.moment) is not None
            closer += not set(cropped.tolist()) <= set(clip.frames.tolist())
        whole = dataset.crop(clip, np.array([0.9, 0.5, 0.5])).frames
        assert whole.tolist() == clip.frames.tolist()
    assert closer
    _, slots = clip_sizes(dataset, 0, 0, crop=True)
    drawn = crop_draws(0, 0, len(dataset))
    assert slots.tolist() == [len(dataset.crop(dataset[i], drawn[i]).frames) for i in range(len(dataset))]


def test_every_second_frame_of_a_cache_is_a_grid_of_half_its_rate(tiny_cache: Path, tmp_path: Path) -> None:
    settings = ("model.train_every=2", "model.max_frames=100")
    run = Run(tmp_path, Cache.open(tiny_cache), small(*settings), "train", CPU)
    whole = Run(tmp_path, Cache.open(tiny_cache), small("model.max_frames=100"), "train", CPU)
    full = {whole.dataset[i].sample.sample_id: whole.dataset[i] for i in range(len(whole.dataset))}
    for i in range(len(run.dataset)):
        clip = run.dataset[i]
        every = full[clip.sample.sample_id].frames
        assert set(clip.frames.tolist()) <= set(every.tolist())
        assert len(every) / 2 <= len(clip.frames) <= len(every) / 2 + 1
        assert len(run.dataset.collate([clip]).frames[0]) == len(clip.frames)


def test_a_run_that_goes_on_ends_with_the_same_bits(tiny_cache: Path, tmp_path: Path) -> None:
    cache, two = Cache.open(tiny_cache), ("train.warmup=0", "train.epochs=2")
    unbroken = Run(tmp_path / "a", cache, small(*two), "train", CPU)
    train(unbroken)
    first = Run(tmp_path / "b", cache, small("train.warmup=0"), "train", CPU)
    train(first)
    second = Run(tmp_path / "b", cache, small(*two), "train", CPU)
    assert second.resume()
    assert second.step == first.step < second.total_steps
    train(second)
    ends = [load_checkpoint(tmp_path / k / "last.safetensors").tensors for k in "ab"]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_it_starts_from_a_head_that_came_of_MDETRs_and_not_the_other_way_round(
    tiny_cache: Path, tmp_path: Path, trained: Path
) -> None:
    facts = feature_facts(Cache.open(tiny_cache).recipe, "cached")
    run = Run(tmp_path, Cache.open(tiny_cache), small("model.fast=false", preset="tubedetr"), "train", CPU)
    source = run.save("best")
    head = build_model(small().model, facts)
    start = start_from(head, source)
    theirs = run.model.head.state_dict()
    assert torch.equal(head.bbox_embed.layers[0].weight, theirs["bbox_embed.layers.0.weight"])
    assert torch.equal(head.encoder.spatial_layers[0].linear1.weight, theirs["encoder.layers.0.linear1.weight"])
    assert {k.partition(".")[0] for k in start.fresh} >= {"template", "temporal_decoder", "temp_embed", "action_embed"}
    again = build_model(small().model, facts, seed=1)
    assert start_from(again, trained).fresh == []
    with pytest.raises(Exception, match="does not fit this head"):
        start_from(build_model(small(preset="tubedetr").model, facts), trained)


def test_the_head_names_what_its_settings_are_of() -> None:
    assert type(small().model) is HEADS["stcat"].config
    assert type(load_experiment("paper", ["model.head=tubedetr"]).model) is HEADS["tubedetr"].config
    assert load_experiment("stcat-hcstvg").loss.giou == 4
    tiny = load_experiment("tiny", ["model.head=stcat"])  # what FSM alone has is left out, and so is nothing else
    assert (tiny.model.d, tiny.loss.span, tiny.train.epochs) == (32, 4, 15)
    with pytest.raises(UsageError, match="no head 'stcats'"):
        load_experiment("stcat", ["model.head=stcats"])
    with pytest.raises(UsageError, match=r"the head stcat has no setting model\.num_queries"):
        load_experiment("stcat", ["model.num_queries=5"])
    with pytest.raises(UsageError, match="nothing would train"):
        load_experiment("stcat", [f"loss.{k}=0" for k in TERMS])
