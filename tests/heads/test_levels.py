"""Encoders of one level and of four, under names of their own, work from extraction to a prediction, in every mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stvg.cache.index import Cache
from stvg.errors import CacheError, UsageError
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.evaluate.predictions import read_predictions
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from ..conftest import extract_synthetic

CPU = torch.device("cpu")
SETTINGS = ("train.epochs=1", "train.batch_size=8", "train.log_every=1", "model.ffn=32", "model.encoder_layers=1")
FROZEN = ("train.lr_backbone=0", "train.lr_text=0", "train.views=false", "train.temporal_crop=false")
ENCODERS = '''
import torch.nn.functional as F
from torch import nn


class Four(nn.Module):
    """Four levels, each from the one before."""

    levels = [("stem", 6, 4), ("low", 8, 8), ("mid", 10, 16), ("high", 12, 32)]
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, weights, device):
        super().__init__()
        self.stem, self.low = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 8, 2, 2)
        self.mid, self.high = nn.Conv2d(8, 10, 2, 2), nn.Conv2d(10, 12, 2, 2)
        self.to(device)

    def forward(self, pixels):
        maps = self.early(pixels)
        return {**maps, "high": self.last_stage(maps["mid"])}

    def early(self, pixels):
        stem = filled(self.stem, pixels).relu()
        low = filled(self.low, stem).relu()
        return {"stem": stem, "low": low, "mid": filled(self.mid, low).relu()}

    def last_stage(self, maps):
        return filled(self.high, maps)

    def drop_early_stages(self):
        del self.stem, self.low, self.mid

    def trained(self):
        return list(self.parameters())


class One(nn.Module):
    """A patch embedding, whose patches are not a power of two."""

    levels = [("patches", 20, 14)]
    mean = std = (0.5, 0.5, 0.5)
    multiple = 14

    def __init__(self, weights, device):
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 14, 14)
        self.to(device)

    def forward(self, pixels):
        return {"patches": self.patch(pixels)}


def filled(layer, maps):
    """Zeros up to whole cells."""
    cell = layer.stride[0]
    return layer(F.pad(maps, (0, -maps.shape[-1] % cell, 0, -maps.shape[-2] % cell)))
'''


WORDS_THAT_LEARN = """
import torch
from torch import nn


class Learns(nn.Module):
    width = 6

    def __init__(self, weights, device, known=()):
        super().__init__()
        self.known = {word: i for i, word in enumerate(known)}
        self.table = nn.Parameter(torch.ones(len(self.known), 6))

    def words(self, sentence):
        return sentence.split()

    def with_words(self, words):
        return Learns("random", "cpu", words)

    def forward(self, sentences):
        return [torch.stack([self.vector(w) for w in s.split()]) for s in sentences]

    def vector(self, word):
        return self.table[self.known[word]] if word in self.known else torch.ones(6)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    (folder / "mine.py").write_text(ENCODERS)
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe records a plugin's file without its folder, and it is found in the working directory."""
    monkeypatch.chdir(folder)


@pytest.fixture
def made(synthetic: Path, folder: Path):
    """A function that makes the cache of one of the encoders, once. Read only."""

    def make(encoder: str, levels: str) -> Path:
        out = folder / f"{encoder}-{levels}"
        if not out.exists():
            options = {"backbone": f"mine.py:{encoder}", "text_encoder": "tiny", "resolution": 64, "dtype": "float32"}
            extract_synthetic(synthetic, out, levels=levels, **options)
        return out

    return make


def start(cache: Path, folder: Path, synthetic: Path, *settings: str) -> Run:
    experiment = load_experiment("tiny", [*SETTINGS, *settings])
    return Run(folder, Cache.open(cache), experiment, "train", CPU, {"videos": synthetic / "vidor/video"})


def one_batch(run: Run):
    return run.dataset.collate([run.dataset[i] for i in (0, 9, 14)])


@pytest.mark.parametrize(
    ("encoder", "levels", "settings", "reads"),
    [
        ("One", "roi", (), ("patches", [])),
        ("One", "full", ("model.standardise=true",), ("patches", [])),
        ("Four", "last", (), ("high", [])),
        ("Four", "roi", (), ("high", ["stem", "low", "mid"])),
        ("Four", "roi", ("model.region_levels=[low]", "model.standardise=true"), ("high", ["low"])),
        ("Four", "full", ("model.memory_level=mid",), ("mid", ["stem", "low", "high"])),
    ],
)
def test_a_head_trains_and_answers_on_levels_of_any_number_and_name(
    made, synthetic, tmp_path, stvg, encoder, levels, settings, reads
):
    cache = made(encoder, levels)
    run = start(cache, tmp_path / "run", synthetic, *settings)
    memory, further = reads
    channels = {level.name: level.channels for level in Cache.open(cache).recipe.visual.levels}
    batch = one_batch(run)
    assert batch.inputs.maps.shape[-1] == channels[memory]
    held = batch.targets.maps if levels == "full" else batch.targets.regions
    assert {k: v.shape[-1] for k, v in held.items()} == {k: channels[k] for k in further}
    checkpoint = train(run)
    head = load_head(checkpoint, CPU)
    ours = tubes_of(head.model, open_split(head, Cache.open(cache), "test"), 4, CPU)
    assert len(ours) > 2
    assert all(np.isfinite(tube.boxes).all() for tube in ours.values())
    if settings:
        return
    video = next((synthetic / "vidor/video").rglob("*.mp4"))
    ran = stvg("predict", video, "the red circle", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--no-video")
    assert ran.code == 0, ran.err
    assert len(read_predictions(tmp_path / "out/predictions.jsonl")) == 1


@pytest.mark.parametrize(
    ("encoder", "levels", "mode"),
    [
        ("One", "roi", "end-to-end"),
        ("Four", "full", "end-to-end"),
        ("Four", "full", "last-stage"),
    ],
)
def test_frozen_live_encoders_of_any_levels_give_the_loss_of_the_cache(
    made, synthetic, tmp_path, encoder, levels, mode
):
    found = {}
    for name in ("cached", mode):
        run = start(made(encoder, levels), tmp_path / name, synthetic, f"train.mode={name}", *FROZEN)
        batch = one_batch(run)
        found[name] = run.criterion(run.model.eval()(batch), batch.targets, batch.inputs.frame_padding)
    assert found["cached"].keys() == found[mode].keys()
    for name, value in found["cached"].items():
        torch.testing.assert_close(found[mode][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_last_stage_of_four_levels_trains_alone_and_its_checkpoint_brings_it(made, synthetic, tmp_path):
    run = start(made("Four", "full"), tmp_path, synthetic, "train.mode=last-stage", "train.lr_backbone=0.01")
    before = {k: v.clone() for k, v in run.encoders.state_dict().items()}
    head = load_head(train(run), CPU)
    moved = {k for k, v in run.encoders.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if ".high." in k}
    assert moved
    ours = tubes_of(head.model, open_split(head, Cache.open(made("Four", "full")), "test"), 4, CPU)
    theirs = tubes_of(run.ema.model, run.open_split("test"), 4, CPU)
    assert all(np.array_equal(ours[k].boxes, theirs[k].boxes) for k in theirs)


def test_encoders_that_trained_are_found_where_they_are_moved_to_and_another_class_is_refused(
    made, folder, synthetic, tmp_path, monkeypatch, stvg
):
    cache = made("Four", "full")
    checkpoint = train(start(cache, tmp_path / "run", synthetic, "train.mode=last-stage", "train.lr_backbone=0.01"))
    expected = tubes_of(load_head(checkpoint, CPU).model, open_split(load_head(checkpoint, CPU), Cache.open(cache), "test"), 4, CPU)  # fmt: skip  # noqa: E501
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"the encoder that trained with this head is not found.*mine\.py") as error:
        load_head(checkpoint, CPU)
    assert "--backbone" in error.value.facts["hint"]
    head = load_head(checkpoint, CPU, {"backbone": f"{folder}/mine.py:Four"})
    found = tubes_of(head.model, open_split(head, Cache.open(cache), "test"), 4, CPU)
    assert all(np.array_equal(found[k].boxes, expected[k].boxes) for k in expected)
    asked = ("evaluate", "--checkpoint", checkpoint, "--cache", cache, "--backbone")
    assert stvg(*asked, f"{folder}/mine.py:Four", "--json", tmp_path / "scores.json").code == 0
    (tmp_path / "mine.py").write_text(ENCODERS.replace("self.mid(pixels)", "self.mid(pixels) + 1") + "\n# changed")
    refused = stvg(*asked, "mine.py:Four")
    assert refused.code == 1
    assert "is not the one that trained with this head" in refused.err


def test_any_class_that_learns_words_trains_with_those_of_the_annotations(made, folder, synthetic, tmp_path):
    (folder / "learns.py").write_text(WORDS_THAT_LEARN)
    out = folder / "learns"
    names = {"backbone": "mine.py:Four", "text_encoder": "learns.py:Learns", "text_weights": "random"}
    extract_synthetic(synthetic, out, levels="last", resolution=64, dtype="float32", **names)
    run = Run(
        tmp_path / "run",
        Cache.open(out),
        load_experiment("tiny", [*SETTINGS, "train.mode=text", "train.lr_text=0.01"]),
        "train",
        CPU,
        {"text_weights": "random"},
    )
    before = run.encoders.text.encoder.table.detach().clone()
    assert len(before) > 5
    head = load_head(train(run), CPU)
    assert not torch.equal(run.encoders.text.encoder.table, before)
    ours = tubes_of(head.model, open_split(head, Cache.open(out), "test"), 4, CPU)
    theirs = tubes_of(run.ema.model, run.open_split("test"), 4, CPU)
    assert all(np.array_equal(ours[k].boxes, theirs[k].boxes) for k in theirs)


def test_what_an_encoder_or_a_cache_lacks_for_a_mode_is_named(made, synthetic, tmp_path):
    with pytest.raises(UsageError, match="no last stage that could train alone"):
        start(made("One", "roi"), tmp_path, synthetic, "train.mode=last-stage")
    with pytest.raises(CacheError, match="keeps no maps of level mid"):
        start(made("Four", "roi"), tmp_path, synthetic, "train.mode=last-stage")
    with pytest.raises(CacheError, match="nothing for the last stage alone to train on"):
        start(made("Four", "full"), tmp_path, synthetic, "train.mode=last-stage", "model.memory_level=mid")
    with pytest.raises(UsageError, match="no level 'hihg'"):
        start(made("Four", "full"), tmp_path, synthetic, "model.memory_level=hihg")
    with pytest.raises(CacheError, match="keeps no maps of level low"):
        start(made("Four", "roi"), tmp_path, synthetic, "model.memory_level=low")
