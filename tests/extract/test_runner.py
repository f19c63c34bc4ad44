"""Extraction: what is cached is what an online encoder gives, a kill loses nothing, bad videos are named and left out."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling, slots_in
from stvg.errors import CacheError, VideoError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import read_frames

from ..conftest import extract_synthetic


def digests(cache: Path) -> dict[str, str]:
    """Content of every file of a cache, but for library versions, which are recorded and not part of the recipe."""
    files = sorted(p for p in cache.rglob("*") if p.is_file())
    return {str(p.relative_to(cache)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(("store", "levels"), [("zarr", "full"), ("hdf5", "full"), ("zarr", "roi"), ("zarr", "last")])
def test_cached_features_equal_features_computed_online(synthetic, tmp_path, store, levels):
    cache = Cache.open(extract_synthetic(synthetic, tmp_path / "cache", store=store, levels=levels, splits=["test"]))
    backbone = build_backbone("tiny").to(memory_format=torch.channels_last)
    for sample in cache.samples:
        video, unit = sample.video, cache.unit(sample.video.video_id)
        path = synthetic / "vidor/video" / video.path
        frames = sample.frames(Sampling(5.0, 40))
        pixels = np.concatenate(list(read_frames(path, frames, width=video.width, height=video.height)))
        with torch.inference_mode():
            online = backbone(apply_view(pixels, unit.views[0], backbone.mean, backbone.std))
        places = unit.places(frames)
        for level in ("c3", "c4", "c5") if levels == "full" else ("c5",):
            stored = unit.read(level, places).numpy()
            assert stored.dtype == np.float16
            np.testing.assert_allclose(stored, online[level].permute(0, 2, 3, 1), rtol=2e-3, atol=2e-3)
        if levels == "roi":
            inside = slots_in(frames, sample.moment)
            boxes = sample.boxes_at(frames[inside]) * (unit.views[0].width / video.width)
            rois = torch.from_numpy(np.column_stack([np.flatnonzero(inside), boxes])).float()
            places = unit.region_places(frames[inside], sample.boxes_at(frames[inside]))
            for level, stride in (("c3", 4), ("c4", 8)):
                expected = roi_align(online[level], rois, 4, 1 / stride, 2, aligned=True).flatten(2).transpose(1, 2)
                np.testing.assert_allclose(unit.read(f"{level}_roi", places), expected, rtol=5e-3, atol=5e-3)


def test_both_stores_hold_the_same_features(synthetic, tiny_cache, tmp_path):
    other = Cache.open(extract_synthetic(synthetic, tmp_path / "cache", store="hdf5"))
    cache = Cache.open(tiny_cache)
    assert other.recipe.fingerprint == cache.recipe.fingerprint
    assert other.store.keys("videos") == cache.store.keys("videos")
    for key in cache.store.keys("videos") + cache.store.keys("text"):
        assert other.store.attributes(key) == cache.store.attributes(key)
        for name in cache.store.arrays(key):
            np.testing.assert_array_equal(other.store.read(key, name), cache.store.read(key, name))


def test_a_killed_extraction_resumes_to_the_same_bytes(synthetic, lean_cache, tmp_path):
    out = tmp_path / "cache"
    words = ["--dataset", "vidstg", "--annotations", synthetic, "--split", "train", "--split", "test", "--out", out]
    words += ["--backbone", "tiny", "--resolution", "96", "--max-frames", "40", "--device", "cpu", "--levels", "last"]
    command = [sys.executable, "-m", "stvg", "extract", *map(str, words), "--batch-frames", "4"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as killed:
        while killed.poll() is None and not [*out.glob("videos/[0-9]*")][1:]:
            time.sleep(0.001)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    assert len([*out.glob("videos/[0-9]*")]) < 8
    extract_synthetic(synthetic, out, levels="last")
    assert digests(out) == digests(lean_cache)


def test_repeating_an_extraction_does_nothing_and_another_recipe_is_refused_field_by_field(synthetic, own_cache):
    before = {p: p.stat().st_mtime_ns for p in own_cache.rglob("*") if p.is_file()}
    extract_synthetic(synthetic, own_cache)
    assert {p: p.stat().st_mtime_ns for p in own_cache.rglob("*") if p.is_file()} == before
    with pytest.raises(CacheError, match=r"resolution +cache has 96, asked for 128"):
        extract_synthetic(synthetic, own_cache, resolution=128)
    with pytest.raises(CacheError, match=r"visual\.sha256"):
        extract_synthetic(synthetic, own_cache, weights_seed=1)
    assert {p: p.stat().st_mtime_ns for p in own_cache.rglob("*") if p.is_file()} == before


def test_a_video_that_cannot_be_read_is_listed_and_retried_only_when_asked(synthetic, tmp_path, stvg):
    import shutil

    data = shutil.copytree(synthetic, tmp_path / "data")
    broken, missing = sorted(data.glob("vidor/video/*/*.mp4"))[:2]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    missing.unlink()
    words = ["extract", "--dataset", "vidstg", "--annotations", data, "--split", "train", "--out", tmp_path / "cache"]
    words += ["--backbone", "tiny", "--resolution", "96", "--device", "cpu"]
    ran = stvg(*words)
    assert ran.code == 3
    assert "4 videos done" in ran.out
    assert broken.name in ran.err
    assert missing.stem in ran.err
    cache = Cache.open(tmp_path / "cache")
    assert set(cache.skipped()) == {broken.stem, missing.stem}
    broken.write_bytes(whole)
    assert stvg(*words).code == 3
    assert set(Cache.open(tmp_path / "cache").skipped()) == {broken.stem, missing.stem}
    assert "1 video done" in stvg(*words, "--retry-skipped").out
    assert set(Cache.open(tmp_path / "cache").skipped()) == {missing.stem}
    with pytest.raises(VideoError):
        extract_synthetic(data, tmp_path / "strict", splits=["train"], strict=True)


def test_a_video_that_was_not_there_is_read_once_it_is_and_a_wrong_folder_lists_nobody(synthetic, tmp_path, stvg):
    import shutil

    data, nowhere = shutil.copytree(synthetic, tmp_path / "data"), tmp_path / "photos"
    nowhere.mkdir()
    late = min(data.glob("vidor/video/*/*.mp4"))
    late.rename(tmp_path / late.name)
    words = ["extract", "--dataset", "vidstg", "--annotations", data, "--split", "train", "--out", tmp_path / "cache"]
    words += ["--backbone", "tiny", "--resolution", "96", "--device", "cpu"]
    wrong = stvg(*words, "--videos", nowhere)
    assert (wrong.code, wrong.err.count(str(nowhere))) == (1, 1)
    assert not (tmp_path / "cache").exists()
    assert stvg(*words).code == 3
    assert set(Cache.open(tmp_path / "cache").skipped()) == {late.stem}
    assert f"none of the 6 videos is in {nowhere}" in stvg(*words, "--videos", nowhere).err
    (tmp_path / late.name).rename(late)
    assert stvg(*words).code == 0
    assert not Cache.open(tmp_path / "cache").skipped()
    assert stvg(*words, "--videos", nowhere).code == 0  # nothing is left to read


def test_sentences_are_encoded_once_and_found_again(tiny_cache):
    from stvg.extract.encoders.text import build_text_encoder

    cache = Cache.open(tiny_cache)
    encoder = build_text_encoder("tiny")
    for sample in cache.samples:
        stored = cache.texts.read(sample.sentence)
        np.testing.assert_allclose(stored, encoder.encode([sample.sentence])[0], rtol=1e-3, atol=1e-3)
    held = [cache.store.arrays(key)["hashes"].shape[0] for key in cache.store.keys("text")]
    assert held == [len({s.sentence for s in cache.samples})]


def test_samples_come_back_from_the_table_as_they_were_read(synthetic, tiny_cache):
    from stvg.extract.datasets.readers import read_annotations

    cache = Cache.open(tiny_cache)
    read = [s for split in ("train", "test") for s in read_annotations("vidstg", synthetic, split).samples]
    assert len(cache.samples) == len(read)
    for stored, sample in zip(cache.samples, read, strict=True):
        assert replace(stored, boxes=None).__dict__ == replace(sample, boxes=None).__dict__
        np.testing.assert_array_equal(stored.boxes, sample.boxes)


def test_autocast_features_are_near_the_exact_ones_and_another_recipe(synthetic, tmp_path):
    exact, cast = (
        Cache.open(extract_synthetic(synthetic, tmp_path / amp, splits=["test"], amp=amp)) for amp in ("none", "bf16")
    )
    assert exact.recipe.fingerprint != cast.recipe.fingerprint
    key = exact.store.keys("videos")[0]
    for name in ("c5", "c3_roi", "c4_roi"):
        ours, theirs = cast.store.read(key, name), exact.store.read(key, name)
        assert not np.array_equal(ours, theirs)
        np.testing.assert_allclose(ours.astype(np.float32), theirs, atol=0.05, rtol=0.03)
