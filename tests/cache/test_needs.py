"""What samples need of a video, and where it is found: regions by frame and box, frames and regions over several units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache import needs as needs_module
from stvg.cache.needs import Needs, RegionIndex, regions_at
from stvg.cache.sampling import Sampling, slots_in, video_grid
from stvg.cache.schema import has_boxes
from stvg.cache.table import SampleTable
from stvg.cache.texts import sentence_hashes
from stvg.cache.video_unit import REGIONS, Places, VideoUnit, more_key, video_key
from stvg.cache.view import View
from stvg.errors import CacheError

from .caches import RECIPE, annotated, make_samples, write_text

KEEPS_REGIONS = replace(RECIPE, keep="roi")
numbers = st.sampled_from([0.0, -0.0, 1.0, 0.1, 1e300, 5e-324, 640.0])
regions = st.lists(st.tuples(st.integers(0, 5), numbers, numbers, numbers, numbers), max_size=30).map(
    lambda rows: np.array(rows, dtype=np.float64).reshape(-1, 5)
)


@settings(deadline=None)
@given(regions, regions, st.booleans())
def test_regions_are_found_by_value_even_when_their_codes_collide(known, wanted, collide):
    codes = needs_module._codes
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(needs_module, "_codes", lambda r: codes(r) % np.uint64(2))
        found = RegionIndex(known).find(wanted)
    for row, at in zip(wanted, found, strict=True):
        same = np.flatnonzero((known == row).all(1))
        assert at == (same[0] if len(same) else -1)


@st.composite
def annotations(draw):
    made = []
    for i, sample in enumerate(make_samples(range(1), draw(st.integers(1, 6)))):
        start = draw(st.integers(0, 40))
        end = draw(st.integers(start + 1, 60))
        first = draw(st.integers(0, 58))
        last = draw(st.integers(first + 1, 60))
        boxes = np.arange(4.0 * (last - first)).reshape(-1, 4) + i % 2
        boxes[np.array(draw(st.lists(st.booleans(), min_size=len(boxes), max_size=len(boxes))))] = np.nan
        made.append(replace(sample, segment=(start, end), moment=(first, last), boxes=boxes))
    return made


@settings(max_examples=60, deadline=None)
@given(annotations())
def test_the_needs_of_a_table_are_those_of_its_samples(samples):
    found = Needs.of(SampleTable.of(samples), range(len(samples)), KEEPS_REGIONS)
    grid = video_grid([s.segment for s in samples], 25.0, RECIPE.fps)
    assert found.all_frames().tolist() == grid.tolist()
    for number, sample in enumerate(samples):
        frames = sample.frames(Sampling(RECIPE.fps, 1000))
        assert found.frames[found.frame_of == number].tolist() == frames.tolist()
        inside = frames[slots_in(frames, sample.moment)]
        boxes = sample.boxes_at(inside)
        expected = regions_at(inside[has_boxes(boxes)], boxes[has_boxes(boxes)])
        np.testing.assert_array_equal(found.regions[found.region_of == number], expected)


def values(frames, view=0):
    return np.stack([np.full((2, 2, 8), 10 * f + view, np.float16) for f in frames])


def write_unit(cache, key, frames, held, sha256="a", **attributes):
    """Maps and regions whose values say which frames, boxes and view they are of."""
    frames = np.asarray(frames, dtype=np.int64)
    with cache.store.writer(key) as unit:
        arrays = {"c5": values(frames), "view1_c5": values(frames, 1)} if len(frames) else {}
        arrays |= {REGIONS: held, "c4_roi": np.tile(held[:, 1, None, None], (1, 16, 4)).astype(np.float16)}
        for name, block in arrays.items():
            unit.add(name, block.shape, block.dtype)
            unit.append(name, block)
        facts = {"fingerprint": cache.recipe.fingerprint, "frames": frames.tolist(), "source": {"sha256": sha256}}
        unit.commit({**facts, "views": [View(64, 64, 64, 64).to_json()] * 2, **attributes})


def some(*rows):
    return np.array([(f, x, 0, 9, 9) for f, x in rows], dtype=np.float64).reshape(-1, 5)


def spread(cache):
    """A video in four units: its first, one of new frames that also repeats one, one of regions alone, and an empty one."""
    parts = [([0, 5, 10], some((0, 1), (5, 2))), ([3, 5, 20], some((20, 3))), ([], some((5, 4), (10, 5)))]
    for number, (frames, held) in enumerate(parts):
        key = more_key("v0", np.array(frames, np.int64), held) if number else video_key("v0")
        write_unit(cache, key, frames, held)
    return cache.unit("v0")


@pytest.mark.parametrize("store", ["zarr", "hdf5"])
@pytest.mark.parametrize("view", [0, 1])
def test_units_of_a_video_are_read_as_one(tmp_path, store, view):
    unit = spread(annotated(tmp_path / "c", make_samples(range(1)), store, keep="roi"))
    assert len(unit.keys) == 3
    assert unit.frames.tolist() == [0, 3, 5, 10, 20]
    name = "view1_c5" if view else "c5"
    for wanted in ([0, 3, 5, 10, 20], [5], [3, 20], [20, 0, 0], []):
        frames = np.array(wanted, dtype=np.int64)
        read = unit.read(name, unit.places(frames))
        assert read[:, 0, 0, 0].tolist() == [10 * f + view for f in wanted]
        if not wanted:
            continue
        out = torch.zeros(len(wanted), 3, 4, 8, dtype=torch.float16)[:, :2, :2]
        unit.read(name, unit.places(frames), out)
        assert torch.equal(out, read)
    frames, boxes = np.array([10, 5, 5, 20]), some((10, 5), (5, 4), (5, 2), (20, 3))[:, 1:]
    assert unit.read("c4_roi", unit.region_places(frames, boxes))[:, 0, 0].tolist() == [5, 4, 2, 3]
    with pytest.raises(CacheError, match=r"video v0 holds no features of source frames \[4\]"):
        unit.places(np.array([0, 4]))
    with pytest.raises(CacheError, match=r"no features of regions of the target at source frames \[10\]"):
        unit.region_places(np.array([5, 10]), some((5, 4), (10, 4))[:, 1:])


def test_frames_of_one_unit_are_read_in_one_piece(tmp_path):
    unit = spread(annotated(tmp_path / "c", make_samples(range(1)), keep="roi"))
    assert len(unit.places(np.array([0, 5, 10])).reader()) == 1
    assert len(unit.places(np.array([3, 20])).reader()) == 1
    assert len(unit.places(np.array([3, 5])).reader()) == 2
    assert Places(np.empty(0, np.int64), np.empty(0, np.int64)).reader()[0][0] == 0


@pytest.mark.parametrize("other", [{"sha256": "b"}, {"views": [View(32, 64, 64, 64).to_json()] * 2}])
def test_units_of_different_files_or_sizes_are_not_joined(tmp_path, other):
    cache = annotated(tmp_path / "c", make_samples(range(1)), keep="roi")
    write_unit(cache, video_key("v0"), [0], some())
    write_unit(cache, more_key("v0", np.array([5]), some()), [5], some(), **other)
    with pytest.raises(CacheError, match="of different files or sizes of the video"):
        cache.unit("v0")


def test_a_sample_is_covered_when_all_its_frames_and_regions_are_there(tmp_path):
    samples = make_samples(range(2))
    whole = Needs.of(SampleTable.of(samples[:3]), [0, 1, 2], KEEPS_REGIONS)
    cache = annotated(tmp_path / "c", samples, keep="roi")
    assert not cache.covered(range(6)).any()
    held = whole.all_regions()
    write_unit(cache, video_key("v0"), whole.all_frames(), held[held[:, 4] != 41])  # the second sentence's target
    cache.look_again()
    assert cache.covered(range(6)).tolist() == [True, False, True, False, False, False]
    write_unit(cache, more_key("v0", np.empty(0, np.int64), held[held[:, 4] == 41]), [], held[held[:, 4] == 41])
    cache.look_again()
    assert cache.covered([5, 2, 1, 0]).tolist() == [False, True, True, True]
    assert isinstance(cache.unit("v0"), VideoUnit)


def test_sentences_are_found_by_their_hash_in_any_unit(tmp_path):
    cache = annotated(tmp_path / "c", make_samples(range(1)))
    hostile = ["", "\ud800 half", "a\0b", "a\0", "ä", "a" * 5000]
    for one in hostile:
        write_text(cache, [one, f"{one} again"])
    assert cache.texts.missing([*hostile, "new", "a"]) == ["new", "a"]
    assert [len(cache.texts.read(one)) for one in hostile] == [len(one.split()) + 2 for one in hostile]
    with pytest.raises(CacheError, match="no features of a sentence"):
        cache.texts.read("new")
    write_text(cache, ["new"])
    assert len(cache.texts.read("new")) == 3


def test_hashes_that_end_in_zeros_are_found():
    from stvg.cache.texts import TextIndex

    hashes = np.zeros((3, 16), np.uint8)
    hashes[1, 0], hashes[2, 15] = 1, 1
    flat = hashes.view("S16").reshape(-1)
    order = np.argsort(flat)
    index = TextIndex([], flat[order], np.zeros(3, np.int64), order, order)
    assert index.starts[index.find(hashes)].tolist() == [0, 1, 2]
    other = hashes.copy()
    other[:, 7] = 7
    assert index.find(other).tolist() == [-1, -1, -1]
    assert sentence_hashes([]).shape == (0, 16)
