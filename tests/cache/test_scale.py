"""What keeps a large cache cheap to open, as claims about what is done and not about time: see benchmarks/opening.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling, moment_slots, sample_frames, sample_many
from stvg.errors import CacheError

from .caches import annotated, make_cache, make_samples, write_video

segments = st.tuples(st.integers(0, 2000), st.integers(1, 3000), st.floats(5.0, 60.0)).map(
    lambda s: (s[0], s[0] + s[1], s[2])
)


@given(st.lists(segments, min_size=1, max_size=20), st.integers(1, 200))
def test_many_clips_at_once_are_sampled_as_each_alone(clips, max_frames):
    starts, ends, fps = (np.array(column) for column in zip(*clips, strict=True))
    sampling = Sampling(5.0, max_frames)
    frames, exists = sample_many(starts, ends, fps, sampling)
    for row, there, (start, end, rate) in zip(frames, exists, clips, strict=True):
        assert row[there].tolist() == sample_frames((start, end), rate, sampling).tolist()


def test_opening_reads_no_boxes_no_units_and_loads_no_heavy_library(tmp_path):
    make_cache(tmp_path / "a", range(3))
    code = (
        "import sys, pathlib; from stvg.cache.index import Cache; cache = Cache.open(pathlib.Path(sys.argv[1]));"
        "assert 'boxes' not in vars(cache.samples); assert not cache._units; assert cache.texts._index is None;"
        "assert not {'torch', 'pandas', 'h5py', 'zarr', 'obstore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True)


def test_a_split_opens_without_boxes_unless_some_are_missing(tmp_path):
    cache = Cache.open(make_cache(tmp_path / "a", range(3)).path)
    CachedDataset(cache, "train", Sampling(5.0, 100), ())
    assert "boxes" not in vars(cache.samples)


@pytest.mark.parametrize("max_frames", [100, 7, 2])
def test_the_extents_of_all_clips_are_those_of_each(tmp_path, max_frames):
    samples = make_samples(range(40))
    rng = np.random.default_rng(max_frames)
    for i, sample in enumerate(samples):
        start = int(rng.integers(0, 50))
        moment = (start, int(rng.integers(start + 1, 61)))
        samples[i] = replace(sample, moment=moment, boxes=np.ones((moment[1] - moment[0], 4)))
    cache = annotated(tmp_path / "a", samples)
    for v in range(40):
        write_video(cache, f"v{v}", v)
    dataset = CachedDataset(cache, "train", Sampling(5.0, max_frames))
    for clip, (slots, first, last, *size) in zip(
        map(dataset.__getitem__, range(len(dataset))), dataset.extents, strict=True
    ):
        assert slots == len(clip.frames)
        assert (first, last) == (moment_slots(clip.frames, clip.sample.moment) or (0, slots - 1))
        assert size == [clip.sample.video.width, clip.sample.video.height]


def test_samples_without_a_slot_in_their_moment_are_left_out_and_gaps_are_refused(tmp_path):
    samples = make_samples(range(3))
    samples[1] = replace(samples[1], moment=(11, 12), boxes=np.ones((1, 4)))  # between two sampled frames
    samples[5] = replace(samples[5], moment=(60, 61), boxes=np.ones((1, 4)))  # after the clip
    gap = samples[7].boxes.copy()
    gap[1] = np.nan  # frame 11: not sampled
    samples[7] = replace(samples[7], boxes=gap)
    cache = annotated(tmp_path / "a", samples)
    for v in range(3):
        write_video(cache, f"v{v}", v)
    sampling = Sampling(5.0, 100)
    dataset = CachedDataset(cache, "train", sampling, ())
    without = [s.sample_id for s in samples if moment_slots(s.frames(sampling), s.moment) is None]
    assert dataset.excluded == without == [1, 102]
    assert len(dataset) == 7
    gap[:] = np.nan
    cache = annotated(tmp_path / "b", [replace(samples[7], boxes=gap)])
    write_video(cache, "v2", 2)
    with pytest.raises(CacheError, match="no target box"):
        CachedDataset(cache, "train", sampling, ())


@pytest.mark.parametrize("value", [0.1, 30.5, 2.0**30 + 1, 1e-300])
def test_boxes_come_back_exactly_whatever_they_are_stored_as(tmp_path, value):
    samples = make_samples(range(1))
    boxes = samples[0].boxes.copy()
    boxes[3, 2], boxes[4] = value, np.nan
    samples[0] = replace(samples[0], boxes=boxes)
    cache = annotated(tmp_path / "a", samples)
    assert cache.samples[0].boxes.tobytes() == boxes.tobytes()
    assert cache.samples[0].boxes.dtype == np.float64


def test_listing_reads_no_records(tmp_path, monkeypatch):
    cache = make_cache(tmp_path / "a", range(3))
    monkeypatch.setattr(type(cache.store), "_read_record", staticmethod(lambda *_: pytest.fail("read")))
    assert cache.store.keys("videos") == ["videos/v0", "videos/v1", "videos/v2"]
