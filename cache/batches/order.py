"""The order of samples in training and inference, and prefetching of batches.

The order and every random draw depend on (seed, epoch, position) alone. So a resumed run sees the same batches as an
uninterrupted one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from ..sampling import FloatArray, IntArray, windows
from ..stores.buffers import memory_for
from ..view import View
from .batch import Batch
from .clips import draw_crops
from .dataset import CachedDataset

Request = TypeVar("Request")
Item = TypeVar("Item")

POOL = 256
"""Batches per pool. Samples are sorted by size within a pool: larger pools give less padding and less random
batches."""
ALIKE = 1.25
"""Largest ratio of slot counts within a group. Sentences of one video share its features, but their segments differ."""
READERS = min(4, os.cpu_count() or 1)
CPU = torch.device("cpu")


def epoch_order(
    dataset: CachedDataset, batch_size: int, per_video: int, seed: int, epoch: int, crop: bool = True
) -> list[list[int]]:
    """The batches of one epoch, as lists of positions in the dataset. The last batch may be smaller.

    Sentences of one video form groups of at most ``per_video``, so that their features are read and projected once.
    Groups are distributed at random over pools of `POOL` batches. Within a pool, groups are sorted by size to reduce
    padding, and then cut into batches. Finally all full batches are shuffled. ``crop``: whether the run uses the
    temporal crop, see `training_batches`.
    """
    rng = np.random.default_rng([seed, epoch])
    shapes, slots = clip_sizes(dataset, seed, epoch, crop)
    groups = video_groups(dataset, per_video, slots, rng)
    groups = [groups[g] for g in rng.permutation(len(groups))]
    sizes = [(*shapes[g[0]].tolist(), int(slots[g].max())) for g in groups]
    pool = np.cumsum([len(g) for g in groups]) // (POOL * batch_size)
    order = [p for k in range(pool[-1] + 1) for g in by_size(np.flatnonzero(pool == k), sizes, k) for p in groups[g]]
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    whole = len(order) // batch_size
    return [batches[i] for i in rng.permutation(whole)] + batches[whole:]


def clip_sizes(dataset: CachedDataset, seed: int, epoch: int, crop: bool) -> tuple[IntArray, IntArray]:
    """Per position: rows and columns of the last level in the evaluation view (N, 2), slots after the crop (N,)."""
    recipe, extents = dataset.cache.recipe, dataset.extents
    sizes, which = np.unique(extents[:, 3:], axis=0, return_inverse=True)
    views = [View.evaluation(width, height, recipe.resolution, recipe.max_side) for width, height in sizes.tolist()]
    shapes = np.array([recipe.visual.levels[-1].cells(view) for view in views])[which.reshape(-1)]
    if not crop:
        return shapes, extents[:, 0]
    kept = draw_crops(dataset.croppable, crop_draws(seed, epoch, len(extents)))
    return shapes, np.minimum(kept[:, 1] - kept[:, 0], dataset.sampling.max_frames)


def crop_draws(seed: int, epoch: int, count: int) -> FloatArray:
    """The random draws of an epoch's crops, one row per position: (count, 3), see `draw_crops`."""
    return np.random.default_rng([seed, epoch, 1]).random((count, 3))


def video_groups(dataset: CachedDataset, per_video: int, slots: IntArray, rng: np.random.Generator) -> list[list[int]]:
    """Groups of positions of one video. The clip lengths in a group differ by at most a factor of `ALIKE`."""
    by_video: dict[str, list[int]] = {}
    for position, row in enumerate(dataset.rows):
        by_video.setdefault(dataset.cache.samples.video_ids[row], []).append(position)
    groups = []
    for positions in by_video.values():
        shuffled = rng.permutation(positions)
        group: list[int] = []
        for p in shuffled[np.argsort(slots[shuffled], kind="stable")].tolist():
            if len(group) == per_video or (group and slots[p] > ALIKE * slots[group[0]]):
                groups.append(group)
                group = []
            group.append(p)
        groups.append(group)
    return groups


def by_size(groups: IntArray, sizes: list[tuple[int, int, int]], pool: int) -> list[int]:
    """Groups sorted by shape, then by length. The direction alternates, so that neighbours differ little in both."""
    shapes = sorted({sizes[g][:2] for g in groups}, reverse=bool(pool % 2))
    rank = {shape: i for i, shape in enumerate(shapes)}

    def place(g: int) -> tuple[int, int]:
        k = rank[sizes[g][:2]]
        return k, sizes[g][2] if (k + pool) % 2 else -sizes[g][2]

    return sorted(groups.tolist(), key=place)


def share_of(order: list[list[int]], part: int, parts: int) -> list[list[int]]:
    """Share number ``part`` of ``parts`` of every batch. Shares are contiguous, to keep sentences of a video together.

    The shares of a batch differ by at most one sample. A batch of fewer than ``parts`` samples has empty shares.
    """
    return [batch[len(batch) * part // parts : len(batch) * (part + 1) // parts] for batch in order]


def training_batches(
    dataset: CachedDataset,
    order: list[list[int]],
    seed: int,
    epoch: int,
    start: int = 0,
    crop: bool = True,
    views: bool = True,
    device: torch.device = CPU,
) -> Iterator[Batch | None]:
    """Prefetched batches of one epoch's order, from batch number ``start``, in memory suited to ``device``.

    ``crop``: apply the temporal crop. ``views``: use the stored random views. A batch's memory is reused when nothing
    refers to that batch any more. An empty batch is given as None.
    """
    source = dataset.reading_into(memory_for(device))
    draws = crop_draws(seed, epoch, len(source))

    def load(i: int) -> Batch | None:
        if not order[i]:
            return None
        clips = [source[p] for p in order[i]]
        if views:
            clips = [source.redraw(c, seed, epoch, p) for c, p in zip(clips, order[i], strict=True)]
        if crop:
            clips = [source.crop(c, draws[p]) for c, p in zip(clips, order[i], strict=True)]
        return source.collate(clips)

    yield from read_ahead(load, range(start, len(order)))


def inference_batches(
    dataset: CachedDataset, batch_size: int, window: int, device: torch.device = CPU, passes: int = 1
) -> Iterator[Batch]:
    """Every sample once, in table order. A clip of more than ``window`` slots is split into consecutive clips.

    ``passes``: before that, every clip is divided into this many clips of every ``passes``-th slot, but never into more
    clips than it has slots.

    A batch may hold clips of several samples. It has at most ``batch_size`` x ``window`` slots in memory, for videos of
    any length.
    """
    whole = (dataset[i] for i in range(len(dataset)))
    clips = (
        replace(clip, frames=frames)
        for clip in whole
        for first in range(min(passes, len(clip.frames)))
        for frames in windows(clip.frames[first::passes], window)
    )
    collate = dataset.reading_into(memory_for(device)).collate
    yield from read_ahead(collate, iter(lambda: list(islice(clips, batch_size)), []))


def read_ahead(
    load: Callable[[Request], Item], requests: Iterable[Request], depth: int = 2, readers: int = READERS
) -> Iterator[Item]:
    """Yield ``load(request)`` for every request, in order. Threads compute at most ``depth`` items ahead.

    An exception of a request is raised when its item is due. The threads end when the iterator is exhausted or closed.
    """
    pool = ThreadPoolExecutor(readers, thread_name_prefix="read-ahead")
    pending: deque[Future[Item]] = deque()
    try:
        for request in requests:
            pending.append(pool.submit(load, request))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
