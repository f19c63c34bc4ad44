"""A cache of any dtype trains and scores a head; its bytes do not depend on how they were written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.index import Cache
from stvg.cache.kept import DTYPES
from stvg.cache.sampling import Sampling
from stvg.cache.stores.quantise import READ, read_features

from ..conftest import extract_synthetic
from ..encoders import further
from .test_runner import digests

SMALL = ["--set", "train.epochs=1", "--set", "train.batch_size=8", "--set", "model.ffn=32", "--device", "cpu"]


@pytest.fixture(scope="module")
def exact(synthetic, tmp_path_factory) -> Cache:
    """The features of ``synthetic`` as the encoders gave them."""
    return Cache.open(extract_synthetic(synthetic, tmp_path_factory.mktemp("exact") / "cache", dtype="float32"))


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8), ("uint8", 0.5 / 255 + 2**-11)])
def test_every_array_of_a_cache_is_as_near_as_its_dtype_allows(synthetic, exact, tmp_path, dtype, error):
    cache = Cache.open(extract_synthetic(synthetic, tmp_path / "cache", dtype=dtype, views=2))
    for key in exact.store.keys("videos") + exact.store.keys("text"):
        for name in exact.store.arrays(key):
            whole, read = exact.store.read(key, name), read_features(cache.store, key, name).float().numpy()
            if whole.size and name not in ("hashes", "offsets"):
                assert np.abs(read - whole).max() <= error * (np.ptp(whole) + np.abs(whole).max() * (dtype != "uint8"))
    sentence = exact.samples.sentence(0)
    text, near = exact.texts.read(sentence), cache.texts.read(sentence)
    assert near.dtype == READ[dtype]
    assert (near.float() - text).abs().max() <= error * 2 * text.abs().max()


@pytest.mark.parametrize("dtype", ["bfloat16", "uint8"])
@pytest.mark.parametrize("levels", ["roi", "full"])
def test_a_batch_of_any_dtype_is_the_exact_one_within_its_precision(synthetic, tmp_path, dtype, levels):
    batches = []
    for kind in ("float32", dtype):
        cache = Cache.open(extract_synthetic(synthetic, tmp_path / kind, dtype=kind, levels=levels))
        data = CachedDataset(cache, "train", Sampling(5.0, 40), further(cache.recipe))
        batches.append(data.collate([data[i] for i in range(len(data))]))
    whole, near = batches
    assert near.inputs.maps.dtype == READ[dtype]
    pairs = [(whole.inputs.maps, near.inputs.maps), (whole.inputs.tokens, near.inputs.tokens)]
    form = "regions" if levels == "roi" else "maps"
    pairs += [(getattr(whole.targets, form)[k], getattr(near.targets, form)[k]) for k in ("c3", "c4")]
    for a, b in pairs:
        assert (a - b.float()).abs().max() <= 2**-8 * (a.max() - a.min())
    assert torch.equal(whole.inputs.frame_index, near.inputs.frame_index)


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
def test_quantised_bytes_do_not_depend_on_blocks_or_interruptions(synthetic, tmp_path, store):
    options = {"dtype": "uint8", "store": store}
    whole = extract_synthetic(synthetic, tmp_path / "whole", **options)
    other = extract_synthetic(synthetic, tmp_path / "other", **options, batch_frames=5)
    assert digests(other) == digests(whole)
    for key in Cache.open(other).store.keys("videos")[::2]:
        place = Cache.open(other).store.place(key)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    extract_synthetic(synthetic, other, **options, batch_frames=7)
    assert digests(other) == digests(whole)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "float16"])
def test_a_head_trains_on_and_is_scored_from_a_cache_of_any_dtype(stvg, synthetic, tmp_path, dtype):
    cache, run = tmp_path / "cache", tmp_path / "run"
    words = ["--dataset", "vidstg", "--annotations", synthetic, "--split", "train", "--split", "test", "--out", cache]
    words += ["--backbone", "tiny", "--resolution", "64", "--device", "cpu", "--dtype", dtype]
    assert stvg("extract", *words).code == 0
    assert stvg("train-head", "--cache", cache, "--out", run, "--preset", "tiny", *SMALL).code == 0
    words = ["--checkpoint", run / "best.safetensors", "--cache", cache, "--split", "test", "--device", "cpu"]
    ran = stvg("evaluate", *words)
    assert ran.code == 0, ran.err
    assert "declarative" in ran.out
