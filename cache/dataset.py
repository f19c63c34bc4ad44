"""From a cache to batches: which samples, which slots, and how they are padded together.

The order of samples and every random draw are functions of (seed, epoch, position) alone, so a resumed run sees exactly
what an unbroken one would have seen.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch import Batch, Inputs, LiveFrames, Targets
from .errors import CacheError
from .index import Cache, VideoUnit, video_key
from .sampling import IntArray, Sampling, moment_slots, slots_in, windows
from .schema import Sample, Video, has_boxes

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Request = TypeVar("Request")


@dataclass(frozen=True)
class Clip:
    """A sample and the source frames of its slots, (T,) ascending; no features yet."""

    sample: Sample
    text_row: int
    frames: IntArray


class CachedDataset(torch.utils.data.Dataset[Clip]):
    """The samples of a split whose video is in the cache. Works as a plain torch dataset with ``collate``.

    ``targets``: None for inference; else where the second stream's C3 and C4 come from: ``roi``, ``full`` or ``none``.
    ``missing``: sample ids whose video is not in the cache. ``excluded``: with targets, ids without a slot in the moment.
    """

    def __init__(self, cache: Cache, split: str, sampling: Sampling, targets: str | None = None) -> None:
        self.cache, self.split, self.sampling, self.targets = cache, split, sampling, targets
        self._check_request()
        table = cache.samples
        done = self._available()
        chosen = [i for i, s in enumerate(table.splits) if s == split]
        self.missing = [table[i].sample_id for i in chosen if table.video_ids[i] not in done]
        self.rows = [i for i in chosen if table.video_ids[i] in done]
        self.excluded: list[int | str] = []
        if targets is not None:
            self._exclude_without_moment()
        self.text_rows = table.text_rows[self.rows]
        """Row of the token features each position reads; evaluation permutes it to ask how much the words matter."""
        if not self.rows:
            raise CacheError(
                f"{cache.path}: no video of split {split!r} is in the cache", hint="run stvg extract first"
            )
        if self.missing:
            log.warning("%d samples of %s have no video in the cache", len(self.missing), split)

    def _available(self) -> set[str]:
        """The videos whose frames can be had."""
        return {v for v in set(self.cache.samples.video_ids) if self.cache.store.contains(video_key(v))}

    def _check_request(self) -> None:
        splits = sorted(set(self.cache.samples.splits))
        if self.split not in splits:
            raise CacheError(f"{self.cache.path} has no split {self.split!r}", found=", ".join(splits))
        recipe = self.cache.recipe
        if self.sampling.fps != recipe.fps:
            raise CacheError(
                f"{self.cache.path} holds frames at {recipe.fps} fps", found=f"{self.sampling.fps} fps asked for"
            )
        if self.targets in ("roi", "full") and recipe.levels != self.targets:
            raise CacheError(
                f"{self.cache.path} cannot feed multiscale={self.targets}",
                expected=f"a cache extracted with --levels {self.targets}",
                found=f"--levels {recipe.levels}",
                hint=f"--set model.multiscale={recipe.levels if recipe.levels != 'c5' else 'none'}",
            )

    def _exclude_without_moment(self) -> None:
        kept = []
        for i in self.rows:
            sample = self.cache.samples[i]
            frames = sample.frames(self.sampling)
            inside = frames[slots_in(frames, sample.moment)]
            if not len(inside):
                self.excluded.append(sample.sample_id)
            elif not has_boxes(sample.boxes_at(inside)).all():
                raise CacheError(
                    f"{self.cache.path}: sample {sample.sample_id} has no target box at some sampled frame",
                    found=f"frames {inside[~has_boxes(sample.boxes_at(inside))][:5].tolist()}",
                    hint="extract with the max_frames you train with, so that annotations are checked at these frames",
                )
            else:
                kept.append(i)
        self.rows = kept
        if self.excluded:
            log.warning(
                "%d samples of %s have no sampled frame in their moment: left out", len(self.excluded), self.split
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Clip:
        sample = self.cache.samples[self.rows[i]]
        return Clip(sample, int(self.text_rows[i]), sample.frames(self.sampling))

    def samples(self) -> Iterator[Sample]:
        """The annotation of every position, in order."""
        return (self.cache.samples[row] for row in self.rows)

    def crop(self, clip: Clip, rng: np.random.Generator) -> Clip:
        """The paper's temporal crop, half of the time: drop slots before and after the moment, never inside it."""
        inside = moment_slots(clip.frames, clip.sample.moment)
        if rng.random() >= 0.5 or inside is None:
            return clip
        first, last = inside
        start = int(rng.integers(0, first)) if first else 0
        end = int(rng.integers(last + 1, len(clip.frames))) if last + 1 < len(clip.frames) else last
        return Clip(clip.sample, clip.text_row, clip.frames[start : end + 1])

    def collate(self, clips: Sequence[Clip]) -> Batch:
        """Read the features of some clips and pad them together. Frames two clips share are read once."""
        lengths = [len(c.frames) for c in clips]
        B, T = len(clips), max(lengths)
        frame_padding = torch.arange(T)[None] >= torch.tensor(lengths)[:, None]
        videos = sorted({c.sample.video.video_id for c in clips})
        units = {c.sample.video.video_id: self._unit(c.sample.video) for c in clips}
        wanted = {
            v: np.unique(np.concatenate([c.frames for c in clips if c.sample.video.video_id == v])) for v in videos
        }
        c5, cell_padding, live = self._frames([(v, units[v], wanted[v]) for v in videos])
        offset = dict(zip(videos, np.cumsum([0] + [len(wanted[v]) for v in videos[:-1]]).tolist(), strict=True))
        frame_index = torch.zeros(B, T, dtype=torch.int64)
        for b, clip in enumerate(clips):
            video = clip.sample.video.video_id
            rows = torch.from_numpy(np.searchsorted(wanted[video], clip.frames) + offset[video])
            frame_index[b] = rows[0]
            frame_index[b, : len(rows)] = rows
        tokens, token_padding = self._tokens(clips)
        inputs = Inputs(c5, cell_padding, frame_index, frame_padding, tokens, token_padding)
        return Batch(
            samples=[c.sample for c in clips],
            sentences=[self.cache.samples.sentence(c.text_row) for c in clips],
            views=[units[c.sample.video.video_id].view for c in clips],
            frames=[torch.from_numpy(c.frames) for c in clips],
            inputs=inputs,
            targets=None if self.targets is None else self._targets(clips, units, T),
            live=live,
        )

    def _unit(self, video: Video) -> VideoUnit:
        """What is stored of a video, and the view it is stored through."""
        return self.cache.unit(video.video_id)

    def _frames(self, parts: list[tuple[str, VideoUnit, IntArray]]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        """C5 of the batch's distinct frames, its padding, and what live encoders need instead (nothing here)."""
        return *self._maps("c5", parts), ()

    def _maps(self, level: str, parts: list[tuple[str, VideoUnit, IntArray]]) -> tuple[Tensor, Tensor]:
        """Feature maps of one level at some frames of some videos, padded to the largest: (U, h, w, C) and padding."""
        store = self.cache.store
        shapes = [store.arrays(video_key(video))[level].shape for video, _, _ in parts]
        count = sum(len(frames) for _, _, frames in parts)
        h, w, channels = max(s[1] for s in shapes), max(s[2] for s in shapes), shapes[0][3]
        equal = all(s[1:3] == (h, w) for s in shapes)
        dtype = np.dtype(self.cache.recipe.dtype)
        maps = np.empty((count, h, w, channels), dtype) if equal else np.zeros((count, h, w, channels), dtype)
        padding = np.zeros((count, h, w), dtype=bool)
        at = 0
        for (video, unit, frames), shape in zip(parts, shapes, strict=True):
            block = slice(at, at + len(frames))
            rows = unit.rows(frames, f"{self.cache.path}, video {video}")
            if shape[1:3] == (h, w):
                store.read(video_key(video), level, rows, out=maps[block])
            else:
                maps[block, : shape[1], : shape[2]] = store.read(video_key(video), level, rows)
                padding[block, shape[1] :], padding[block, :, shape[2] :] = True, True
            at += len(frames)
        return torch.from_numpy(maps), torch.from_numpy(padding)

    def _tokens(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        texts = {c.text_row: self.cache.text(c.text_row) for c in clips}
        M = max(len(t) for t in texts.values())
        tokens = torch.zeros(len(clips), M, self.cache.recipe.text_width)
        padding = torch.ones(len(clips), M, dtype=torch.bool)
        for b, clip in enumerate(clips):
            text = texts[clip.text_row]
            tokens[b, : len(text)], padding[b, : len(text)] = torch.from_numpy(text.astype(np.float32)), False
        return tokens, padding

    def _targets(self, clips: Sequence[Clip], units: dict[str, VideoUnit], T: int) -> Targets:
        boxes, in_moment = np.zeros((len(clips), T, 4)), np.zeros((len(clips), T), dtype=bool)
        spans, inside = [], []
        for b, clip in enumerate(clips):
            video = clip.sample.video.video_id
            slots = np.flatnonzero(slots_in(clip.frames, clip.sample.moment))
            boxes[b, slots] = units[video].view.to_fractions(clip.sample.boxes_at(clip.frames[slots]))
            in_moment[b, slots] = True
            spans.append((slots[0], slots[-1]))
            inside.append((video, units[video], clip.frames[slots]))
        views = [units[c.sample.video.video_id].view for c in clips]
        roi = self._regions(clips, inside) if self.targets == "roi" else None
        c3 = self._maps("c3", inside)[0] if self.targets == "full" else None
        c4 = self._maps("c4", inside)[0] if self.targets == "full" else None
        return Targets(
            boxes=torch.from_numpy(boxes).float(),
            in_moment=torch.from_numpy(in_moment),
            span=torch.tensor(np.array(spans), dtype=torch.int64),
            size=torch.tensor([(v.width, v.height) for v in views]),
            roi=roi,
            c3=c3,
            c4=c4,
        )

    def _regions(self, clips: Sequence[Clip], inside: list[tuple[str, VideoUnit, IntArray]]) -> Tensor:
        """Stored regions of every clip's moment, clip after clip; one read per video."""
        rows = [
            unit.rows_of_target(clip.sample.target_id, frames, f"{self.cache.path}, video {video}")
            for clip, (video, unit, frames) in zip(clips, inside, strict=True)
        ]
        parts: dict[int, NDArray[Any]] = {}
        for video in {v for v, _, _ in inside}:
            members = [i for i, (v, _, _) in enumerate(inside) if v == video]
            wanted, where = np.unique(np.concatenate([rows[i] for i in members]), return_inverse=True)
            read = self.cache.store.read(video_key(video), "roi", wanted)[where]
            parts |= zip(members, np.split(read, np.cumsum([len(rows[i]) for i in members])[:-1]), strict=True)
        return torch.from_numpy(np.concatenate([parts[i] for i in range(len(clips))]))


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
