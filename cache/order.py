"""In what order samples come, read ahead of whoever asks for them.

The order and every random draw are functions of (seed, epoch, position) alone, so a resumed run sees exactly what an
unbroken one would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import numpy as np

from .batch import Batch
from .dataset import CachedDataset
from .sampling import windows

Request = TypeVar("Request")
Item = TypeVar("Item")


def epoch_order(dataset: CachedDataset, batch_size: int, per_video: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, as lists of positions in the dataset; the last one may be short.

    Sentences of one video come in groups of at most ``per_video``, so that their features are read and projected once.
    """
    rng = np.random.default_rng([seed, epoch])
    by_video: dict[str, list[int]] = {}
    for position, row in enumerate(dataset.rows):
        by_video.setdefault(dataset.cache.samples.video_ids[row], []).append(position)
    groups = []
    for positions in by_video.values():
        shuffled = rng.permutation(positions).tolist()
        groups += [shuffled[i : i + per_video] for i in range(0, len(shuffled), per_video)]
    order = [p for g in rng.permutation(len(groups)) for p in groups[g]]
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def training_batches(
    dataset: CachedDataset,
    order: list[list[int]],
    seed: int,
    epoch: int,
    start: int = 0,
    crop: bool = True,
    views: bool = True,
) -> Iterator[Batch]:
    """Batches ``start`` and on of one epoch's order, read ahead of the step by a thread."""

    def load(i: int) -> Batch:
        clips = [dataset[p] for p in order[i]]
        if views:
            clips = [dataset.redraw(c, seed, epoch, p) for c, p in zip(clips, order[i], strict=True)]
        if crop:
            clips = [
                dataset.crop(c, np.random.default_rng([seed, epoch, p])) for c, p in zip(clips, order[i], strict=True)
            ]
        return dataset.collate(clips)

    yield from read_ahead(load, range(start, len(order)))


def inference_batches(dataset: CachedDataset, batch_size: int, window: int) -> Iterator[Batch]:
    """Every sample once, in the order of the table; a clip of more than ``window`` slots as clips that follow each other.

    Each is read and padded on its own, and clips of several samples share a batch: however long a video is, at most
    ``batch_size`` x ``window`` slots are in memory per batch.
    """
    whole = (dataset[i] for i in range(len(dataset)))
    clips = (replace(clip, frames=frames) for clip in whole for frames in windows(clip.frames, window))
    yield from read_ahead(dataset.collate, iter(lambda: list(islice(clips, batch_size)), []))


def read_ahead(load: Callable[[Request], Item], requests: Iterable[Request], depth: int = 2) -> Iterator[Item]:
    """``load(request)`` for every request, in order, at most ``depth`` of them loading ahead in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        pending: deque[Future[Item]] = deque()
        for request in requests:
            pending.append(pool.submit(load, request))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
