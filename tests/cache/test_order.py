"""What comes when: every sample once, little padding, threads that end, errors in their turn."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.batches.dataset import CachedDataset, draw_crops
from stvg.cache.batches.order import (
    clip_sizes,
    crop_draws,
    epoch_order,
    inference_batches,
    read_ahead,
    training_batches,
)
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.schema import Recipe
from stvg.cache.video_unit import video_key
from stvg.errors import CacheError

from ..encoders import text, visual

RECIPE = Recipe(visual(), text())
# (width, height) and how often, as among VidSTG's validation videos.
SIZES = {(640, 360): 0.55, (640, 480): 0.25, (640, 362): 0.08, (360, 640): 0.06, (480, 640): 0.04, (500, 376): 0.02}


def split(videos: int, seed: int = 0) -> CachedDataset:
    """What an order is made from: sentences, lengths and shapes as VidSTG has them (15 sentences, 3.4 segments a video)."""
    rng = np.random.default_rng(seed)
    sizes = list(SIZES)
    extents, ids = [], []
    for video in range(videos):
        size = sizes[rng.choice(len(sizes), p=list(SIZES.values()))]
        for _ in range(rng.poisson(2.4) + 1):
            slots = int(min(100, np.ceil(rng.lognormal(np.log(75), 0.9))))
            for _ in range(rng.poisson(3.4) + 1):
                first, last = sorted(rng.integers(0, slots, 2).tolist())
                extents.append((slots, first, last, *size))
                ids.append(f"v{video}")
    table = SimpleNamespace(video_ids=ids)
    cache = SimpleNamespace(recipe=RECIPE, samples=table)
    slots = np.array(extents)
    rows, rule = list(range(len(ids))), Sampling(5, 10_000)
    return SimpleNamespace(extents=slots, croppable=slots[:, :3], sampling=rule, rows=rows, cache=cache)  # type: ignore[return-value]


def padded_share(dataset: CachedDataset, order: list[list[int]], crop: bool) -> tuple[float, float]:
    """Of all slots, and of all cells of all distinct frames, the share that is padding."""
    shapes, slots = clip_sizes(dataset, 0, 0, crop)
    held, used = np.zeros(2), np.zeros(2)
    for batch in order:
        frames: dict[str, int] = {}
        for p in batch:
            video = dataset.cache.samples.video_ids[p]
            frames[video] = max(frames.get(video, 0), int(slots[p]))
        cells = {dataset.cache.samples.video_ids[p]: int(shapes[p].prod()) for p in batch}
        held += len(batch) * slots[batch].max(), sum(frames.values()) * shapes[batch].max(0).prod()
        used += slots[batch].sum(), sum(frames[v] * cells[v] for v in frames)
    return tuple((1 - used / held).tolist())


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_less_than_a_tenth_is_padding_on_a_mix_of_lengths_and_shapes(batch_size, crop):
    dataset = split(700)
    slots, cells = padded_share(dataset, epoch_order(dataset, batch_size, 4, 0, 0, crop), crop)
    assert slots < 0.1
    assert cells < 0.1
    shuffled = np.random.default_rng(0).permutation(len(dataset.rows))
    unsorted = [shuffled[i : i + batch_size].tolist() for i in range(0, len(shuffled), batch_size)]
    assert padded_share(dataset, unsorted, crop)[0] > 0.2


@settings(max_examples=30, deadline=None)
@given(
    videos=st.integers(1, 40),
    batch_size=st.integers(1, 20),
    per_video=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 50),
)
def test_every_sample_comes_exactly_once_in_full_batches(videos, batch_size, per_video, seed, epoch):
    dataset = split(videos, seed)
    order = epoch_order(dataset, batch_size, per_video, seed, epoch)
    assert sorted(p for batch in order for p in batch) == dataset.rows
    assert all(len(batch) == batch_size for batch in order[:-1])
    assert order == epoch_order(dataset, batch_size, per_video, seed, epoch)


@given(
    inside=st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
    draws=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
)
def test_a_crop_keeps_the_moment_and_lies_in_the_clip(inside, draws):
    before, length, after = inside
    slots = np.array([[before + length + 1 + after, before, before + length]])
    ((start, end),) = draw_crops(slots, np.array([draws]))
    assert 0 <= start <= before <= before + length < end <= slots[0, 0]
    if draws[0] >= 0.5:
        assert (start, end) == (0, slots[0, 0])


def test_every_possible_crop_is_equally_likely():
    kept = draw_crops(np.tile([9, 3, 5], (60_000, 1)), np.random.default_rng(0).random((60_000, 3)))
    counts = Counter(map(tuple, kept.tolist()))
    assert counts.keys() == {(0, 9)} | {(start, end) for start in range(3) for end in (7, 8, 9)}
    assert counts[0, 9] / 60_000 == pytest.approx(0.5 + 0.5 / 9, abs=0.01)
    assert all(n / 60_000 == pytest.approx(0.5 / 9, abs=0.005) for crop, n in counts.items() if crop != (0, 9))


def test_sentences_of_a_video_come_together():
    dataset = split(300)
    order = epoch_order(dataset, 16, 4, 0, 0)
    met = [Counter(dataset.cache.samples.video_ids[p] for p in batch) for batch in order]
    shuffled = np.random.default_rng(0).permutation(len(dataset.rows))
    alone = [
        Counter(dataset.cache.samples.video_ids[p] for p in shuffled[i : i + 16]) for i in range(0, len(shuffled), 16)
    ]
    assert sum(map(len, met)) < 0.5 * sum(map(len, alone))  # videos read, over all batches


def test_who_meets_whom_changes_with_the_epoch():
    dataset = split(300)
    pairs = [
        {frozenset(pair) for batch in epoch_order(dataset, 16, 1, 0, e) for pair in pairwise(batch)} for e in (0, 1)
    ]
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


# ---- reading ahead


def test_items_come_in_order_at_most_a_few_ahead():
    started, taken = [], 0
    for item in read_ahead(lambda i: started.append(i) or i, range(40), depth=3, readers=4):
        assert item == taken
        assert max(started) <= taken + 3
        taken += 1
    assert taken == 40


def test_threads_end_with_an_iterator_that_is_left_early():
    before = threading.active_count()
    batches = read_ahead(lambda i: i, range(1000), readers=3)
    assert next(batches) == 0
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_an_error_is_raised_in_its_turn():
    def load(i: int) -> int:
        if i == 3:
            raise CacheError("damaged")
        return i

    before, seen = threading.active_count(), []
    with pytest.raises(CacheError, match="damaged"):
        seen.extend(read_ahead(load, range(10), readers=4))
    assert threading.active_count() == before


# ---- batches of a cache


def open_split(path, targets: tuple[str, ...] | None = ("c3", "c4")) -> CachedDataset:
    return CachedDataset(Cache.open(path), "train", Sampling(5.0, 40), targets=targets)


def test_a_damaged_video_is_an_error_at_the_batch_it_belongs_to(own_cache):
    dataset = open_split(own_cache)
    order = epoch_order(dataset, 4, 2, 0, 0)
    victim = dataset[order[2][0]].sample.video.video_id
    reached = next(i for i, b in enumerate(order) if victim in {dataset[p].sample.video.video_id for p in b})
    shutil.rmtree(dataset.cache.store.place(video_key(victim)) / "c5")
    batches = training_batches(dataset, order, 0, 0)
    for _ in range(reached):
        assert victim not in {s.video.video_id for s in next(batches).samples}
    with pytest.raises(CacheError, match=victim):
        next(batches)


def test_batches_that_are_held_are_not_overwritten(tiny_cache):
    dataset = open_split(tiny_cache)
    order = [b for e in range(4) for b in epoch_order(dataset, 4, 2, 0, e)]
    held = list(training_batches(dataset, order, 0, 0))
    assert len(held) > 8
    for batch, positions in zip(held, order, strict=True):
        clips = [dataset.crop(dataset[p], crop_draws(0, 0, len(dataset))[p]) for p in positions]
        alone = dataset.collate(clips)
        assert torch.equal(batch.inputs.maps, alone.inputs.maps)
        for level in ("c3", "c4"):
            assert torch.equal(batch.targets.regions[level], alone.targets.regions[level])


def test_batches_that_are_dropped_give_their_memory_to_later_ones(tiny_cache):
    dataset = open_split(tiny_cache)
    order = [b for e in range(8) for b in epoch_order(dataset, 4, 2, 0, e)]
    places = [batch.inputs.maps.untyped_storage().data_ptr() for batch in training_batches(dataset, order, 0, 0)]
    assert len(set(places)) < len(places) / 2


def test_maps_of_several_shapes_are_padded_with_zeros_whatever_the_memory_held(tiny_cache):
    dataset = open_split(tiny_cache, None).reading_into(
        lambda purpose, shape, dtype: torch.full(shape, torch.nan, dtype=dtype)
    )
    by_shape = {dataset.extents[p, 3:].tobytes(): p for p in range(len(dataset))}
    batch = dataset.collate([dataset[p] for p in by_shape.values()])
    assert batch.inputs.maps.isfinite().all()
    assert (batch.inputs.maps[batch.inputs.cell_padding] == 0).all()


def test_sentences_of_one_video_are_served_by_one_read(tiny_cache, monkeypatch):
    dataset = open_split(tiny_cache)
    video = dataset[0].sample.video
    clips = [c for c in map(dataset.__getitem__, range(len(dataset))) if c.sample.video == video]
    reads: Counter[tuple[str, str]] = Counter()
    read = dataset.cache.store.read

    def counted(key, name, *arguments, **options):
        reads[key, name] += 1
        return read(key, name, *arguments, **options)

    monkeypatch.setattr(dataset.cache.store, "read", counted)
    dataset.collate(clips)
    assert len(clips) > 2
    of_video = {name: count for (key, name), count in reads.items() if key == video_key(video.video_id)}
    assert of_video == {"c5": 1, "c3_roi": 1, "c4_roi": 1}


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
def test_a_plain_torch_loader_works_after_the_parent_has_read(tiny_cache, workers, method):
    dataset = open_split(tiny_cache)
    order = epoch_order(dataset, 4, 2, 0, 0)[:3]
    ours = list(training_batches(dataset, order, 0, 0, crop=False))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=dataset.collate,
        num_workers=workers,
        multiprocessing_context=method,
    )
    for mine, theirs in zip(ours, loader, strict=True):
        assert torch.equal(mine.inputs.maps, theirs.inputs.maps)
        for level in ("c3", "c4"):
            assert torch.equal(mine.targets.regions[level], theirs.targets.regions[level])
        assert [s.sample_id for s in mine.samples] == [s.sample_id for s in theirs.samples]


def test_a_loader_hands_batches_over_instead_of_copying_them(tiny_cache):
    dataset = open_split(tiny_cache)

    def collate(clips):
        batch = dataset.collate(clips)
        return batch.inputs.maps.is_shared(), batch.targets.regions["c3"].is_shared()

    batches = epoch_order(dataset, 4, 2, 0, 0)[:2]
    for workers, shared in ((0, False), (1, True)):
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        assert set(loader) == {(shared, shared)}


def test_windows_of_a_long_clip_are_read_as_they_stand(tiny_cache):
    dataset = open_split(tiny_cache, None)
    for batch in inference_batches(dataset, 3, 7):
        for b, (sample, frames) in enumerate(zip(batch.samples, batch.frames, strict=True)):
            clip = next(dataset[i] for i in range(len(dataset)) if dataset[i].sample.sample_id == sample.sample_id)
            alone = dataset.collate([replace(clip, frames=frames.numpy())])
            mine = batch.inputs.maps[batch.inputs.frame_index[b, : len(frames)]]
            assert torch.equal(mine[:, : alone.inputs.maps.shape[1], : alone.inputs.maps.shape[2]], alone.inputs.maps)
        break
