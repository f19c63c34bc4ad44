"""A head may read features standardised by what the cache recorded of them; the statistics stay with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.statistics import channel_statistics
from stvg.cache.video_unit import video_key
from stvg.errors import CacheError
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.heads.layers import Standard, StoredLinear
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from ..conftest import extract_synthetic
from ..encoders import further
from .clips import CLIPS, FACTS, batch, small

CPU = torch.device("cpu")
SETTINGS = ("train.epochs=1", "train.batch_size=8", "model.ffn=32", "model.standardise=true")


@pytest.fixture(scope="module")
def full_cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract_synthetic(synthetic, tmp_path_factory.mktemp("full") / "cache", levels="full", dtype="float32")


def test_recorded_statistics_are_those_of_the_stored_features(full_cache):
    cache = Cache.open(full_cache)
    videos = list(dict.fromkeys(cache.samples.video_ids))[:3]
    for level in cache.recipe.levels:
        cells = [cache.store.read(video_key(v), level.name).reshape(-1, level.channels) for v in videos]
        stored = np.concatenate(cells).astype(np.float64)
        mean, spread = channel_statistics(cache, videos, level)
        np.testing.assert_allclose(mean, stored.mean(0), rtol=1e-9, atol=1e-12)
        varied = stored.std(0) > 1e-3
        np.testing.assert_allclose(spread[varied], stored.std(0)[varied], rtol=1e-6)
        assert (spread > 0).all()


def test_levels_of_which_only_regions_are_kept_have_the_same_statistics(full_cache, synthetic, tmp_path):
    whole, regions = Cache.open(full_cache), Cache.open(extract_synthetic(synthetic, tmp_path / "roi", dtype="uint8"))
    videos = list(dict.fromkeys(whole.samples.video_ids))
    for level in whole.recipe.levels:
        for ours, theirs in zip(*(channel_statistics(c, videos, level) for c in (whole, regions)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_level_of_which_nothing_is_kept_has_none(synthetic, tmp_path):
    cache = Cache.open(extract_synthetic(synthetic, tmp_path / "last", levels="last", splits=["test"]))
    with pytest.raises(CacheError, match="no statistics of level c3"):
        channel_statistics(cache, cache.samples.video_ids[:1], cache.recipe.visual.levels[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folded_layer_is_the_layer_on_standardised_features_with_its_gradients(dtype):
    torch.manual_seed(0)
    layer, standard = StoredLinear(6, 4), Standard(6)
    standard.set(torch.randn(6), torch.rand(6) + 0.1)
    stored = (torch.randn(5, 6) * 3).to(dtype)

    def of(run):
        layer.zero_grad()
        out = run()
        out.square().sum().backward()
        return [out, layer.weight.grad.clone(), layer.bias.grad.clone()]

    plain = of(lambda: layer((stored.float() - standard.mean) / standard.spread))
    for folded, expected in zip(of(lambda: layer(stored, standard)), plain, strict=True):
        torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [False, True], ids=["regions", "maps"])
def test_a_head_that_standardises_answers_on_features_of_any_scale_what_it_answers_on_standard_ones(whole):
    """Shifted and stretched features, with statistics that say so, leave every output as it is."""
    config = small(standardise=True)
    plain, moved = (build_model(config, FACTS, 0).double().eval() for _ in range(2))
    inputs, targets = batch(CLIPS, whole)
    shift, stretch = 5.0, 40.0

    def scaled(features):
        return {k: v.double() * stretch + shift for k, v in features.items()}

    for standard in moved.standards.values():
        standard.set(torch.full_like(standard.mean, shift), torch.full_like(standard.spread, stretch))
    inputs = replace(inputs, maps=inputs.maps.double(), tokens=inputs.tokens.double())
    expected = plain(inputs, replace(targets, boxes=targets.boxes.double(), **_double(targets)))
    found = moved(
        replace(inputs, maps=inputs.maps * stretch + shift),
        replace(targets, boxes=targets.boxes.double(), regions=scaled(targets.regions), maps=scaled(targets.maps)),
    )
    torch.testing.assert_close(found.layers[-1].boxes, expected.layers[-1].boxes, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.anchor.boxes, expected.anchor.boxes, rtol=1e-7, atol=1e-9)


def _double(targets):
    return {name: {k: v.double() for k, v in getattr(targets, name).items()} for name in ("regions", "maps")}


def test_a_run_takes_the_training_videos_statistics_and_its_checkpoint_brings_them(tiny_cache, tmp_path):
    cache = Cache.open(tiny_cache)
    run = Run(tmp_path / "run", cache, load_experiment("tiny", SETTINGS), "train", CPU)
    data = CachedDataset(cache, "train", Sampling(5.0, 40), further(cache.recipe))
    videos = list(dict.fromkeys(cache.samples.video_ids[row] for row in data.rows))
    for level in cache.recipe.levels:
        mean, spread = channel_statistics(cache, videos, level)
        np.testing.assert_allclose(run.model.head.standards[level.name].mean, mean, rtol=1e-6)
        np.testing.assert_allclose(run.model.head.standards[level.name].spread, spread, rtol=1e-6)
    head = load_head(train(run), CPU)
    for level in cache.recipe.levels:
        assert torch.equal(head.model.head.standards[level.name].mean, run.model.head.standards[level.name].mean)
    ours = tubes_of(head.model, open_split(head, cache, "test"), 4, CPU)
    theirs = tubes_of(run.ema.model, run.open_split("test"), 4, CPU)
    assert all(np.array_equal(ours[k].boxes, theirs[k].boxes) for k in theirs)


def test_no_preset_standardises_and_a_head_without_it_holds_no_statistics():
    assert not load_experiment("paper").model.standardise
    assert not any("standards" in name for name in build_model(small(), FACTS).state_dict())
