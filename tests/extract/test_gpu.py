"""Extracting on a GPU: everything is moved there and back, and the cache is that of a CPU."""

from __future__ import annotations

import torch

from stvg.cache.index import Cache
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.features import encode

from ..conftest import extract_synthetic
from ..gpu import CPU, GPU, OnGpu, pretended_gpu


def test_a_cache_made_on_a_gpu_holds_what_one_made_on_a_cpu_does(synthetic, tmp_path):
    here = Cache.open(extract_synthetic(synthetic, tmp_path / "here", levels="full", dtype="float32"))
    with pretended_gpu():
        made = extract_synthetic(synthetic, tmp_path / "there", levels="full", dtype="float32", device=GPU)
    there = Cache.open(made)
    keys = [key for room in ("videos", "text") for key in here.store.keys(room)]
    assert keys == [key for room in ("videos", "text") for key in there.store.keys(room)]
    for key in keys:
        for name in here.store.arrays(key):
            ours, theirs = (torch.from_numpy(cache.store.read(key, name)) for cache in (there, here))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_backbone_runs_where_its_weights_are():
    backbone = build_backbone("tiny").for_extraction(CPU)
    frames = torch.rand(2, 3, 64, 96)
    expected = encode(backbone, frames, CPU)
    with pretended_gpu():
        found = encode(build_backbone("tiny").for_extraction(GPU), frames, GPU)
        assert {type(level) for level in found.values()} == {OnGpu}
        for name, level in found.items():
            torch.testing.assert_close(level.held, expected[name])
