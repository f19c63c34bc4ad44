"""From a cache to batches: which samples, which slots, through which view, and how they are padded together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from .batch import Batch, Inputs, LiveFrames, Targets
from .contents import Contents
from .index import Cache, array_name, video_key
from .sampling import FloatArray, IntArray, Sampling, moment_slots, sample_many, slots_in
from .schema import Sample, Video, View, has_boxes
from .stores.buffers import Allocate, fresh
from .stores.quantise import READ, read_features

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096
SPANS = ("segment_start", "segment_end", "moment_start", "moment_end", "fps")


@dataclass(frozen=True)
class Rendition:
    """One video seen through one view. Clips with equal renditions share their frames."""

    video: Video
    view: View
    index: int = 0
    """Which of the stored views it is."""


@dataclass(frozen=True)
class Part:
    """Some frames of one rendition, (n,) ascending source frames."""

    rendition: Rendition
    frames: IntArray


@dataclass(frozen=True)
class Clip:
    """A sample and the source frames of its slots, (T,) ascending; no features yet."""

    sample: Sample
    text_row: int
    frames: IntArray
    rendition: Rendition | None = None
    """None: the evaluation's."""


class CachedDataset(torch.utils.data.Dataset[Clip]):
    """The samples of a split whose video is in the cache. Works as a plain torch dataset with ``collate``.

    ``targets``: None for inference; else where the second stream's C3 and C4 come from: ``roi``, ``full`` or ``none``.
    ``missing``: sample ids whose video is not in the cache. ``excluded``: with targets, ids without a slot in the moment.
    """

    allocate: Allocate = staticmethod(fresh)
    """Where the maps and regions of a batch are read into."""

    def __init__(self, cache: Cache, split: str, sampling: Sampling, targets: str | None = None) -> None:
        self.cache, self.split, self.sampling, self.targets = cache, split, sampling, targets
        self._check_request()
        table = cache.samples
        done = self._available()
        chosen = [i for i, s in enumerate(table.splits) if s == split]
        self.missing = [table.sample_id(i) for i in chosen if table.video_ids[i] not in done]
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
        return self.cache.complete()

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
        """Leave out samples without a slot in their moment; only those with gaps in their boxes are looked at singly."""
        table, rows = self.cache.samples, np.array(self.rows, dtype=np.int64)
        kept = self._slots(rows)[:, 1] >= 0
        for i in rows[kept & (table.columns["gaps"][rows] > 0)].tolist():
            self._require_boxes(table[i])
        self.excluded = [table.sample_id(i) for i in rows[~kept].tolist()]
        self.rows = rows[kept].tolist()
        if self.excluded:
            log.warning(
                "%d samples of %s have no sampled frame in their moment: left out", len(self.excluded), self.split
            )

    def _slots(self, rows: IntArray) -> IntArray:
        """(n, 3) of some rows of the table: slots, first and last slot in the moment, or -1 and -1 where none is."""
        columns, found = self.cache.samples.columns, np.empty((len(rows), 3), dtype=np.int64)
        for at in range(0, len(rows), ROWS_AT_ONCE):
            start, end, first, last, fps = (columns[name][rows[at : at + ROWS_AT_ONCE]] for name in SPANS)
            frames, exists = sample_many(start, end, fps, self.sampling)
            inside = (frames >= first[:, None]) & (frames < last[:, None]) & exists
            ends = np.stack([inside.argmax(1), inside.shape[1] - 1 - inside[:, ::-1].argmax(1)], axis=1)
            found[at : at + ROWS_AT_ONCE, 0] = exists.sum(1)
            found[at : at + ROWS_AT_ONCE, 1:] = np.where(inside.any(1)[:, None], ends, -1)
        return found

    def _require_boxes(self, sample: Sample) -> None:
        frames = sample.frames(self.sampling)
        inside = frames[slots_in(frames, sample.moment)]
        if not (known := has_boxes(sample.boxes_at(inside))).all():
            raise CacheError(
                f"{self.cache.path}: sample {sample.sample_id} has no target box at some sampled frame",
                found=f"frames {inside[~known][:5].tolist()}",
                hint="extract with the max_frames you train with, so that annotations are checked at these frames",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Clip:
        sample = self.cache.samples[self.rows[i]]
        return Clip(sample, int(self.text_rows[i]), sample.frames(self.sampling))

    def contents(self) -> Contents:
        """Which videos and samples these are, for the record of a run."""
        sources = self.cache.sources(self.rows)
        return Contents.of(self.cache.samples, self.split, self.rows, self.cache.recipe.fingerprint, sources)

    def samples(self) -> Iterator[Sample]:
        """The annotation of every position, in order."""
        return (self.cache.samples[row] for row in self.rows)

    def part(self, index: int, count: int) -> Self:
        """Every count-th of the samples, from the index-th on."""
        other = copy(self)
        other.__dict__.pop("extents", None)
        other.rows, other.text_rows = self.rows[index::count], self.text_rows[index::count]
        return other

    def reading_into(self, allocate: Allocate) -> Self:
        """The same samples, read into other memory."""
        other = copy(self)
        other.allocate = allocate
        return other

    @cached_property
    def extents(self) -> IntArray:
        """(N, 5) of every position: slots, first and last slot in the moment, width and height of the video.

        Where no slot is in the moment, all are taken to be.
        """
        rows, columns = np.array(self.rows, dtype=np.int64), self.cache.samples.columns
        slots = self._slots(rows)
        none = slots[:, 1] < 0
        slots[none, 1], slots[none, 2] = 0, slots[none, 0] - 1
        return np.concatenate([slots, np.stack([columns["width"][rows], columns["height"][rows]], axis=1)], axis=1)

    def crop(self, clip: Clip, draws: FloatArray) -> Clip:
        """The paper's temporal crop, half of the time: drop slots before and after the moment, never inside it.

        ``draws``: as for `draw_crops`, of this clip.
        """
        inside = moment_slots(clip.frames, clip.sample.moment)
        if inside is None:
            return clip
        start, end = draw_crops(np.array([[len(clip.frames), *inside]]), draws[None])[0]
        return replace(clip, frames=clip.frames[start:end])

    def redraw(self, clip: Clip, seed: int, epoch: int, position: int) -> Clip:
        """The clip seen through one of its video's stored views, the same for all sentences of a video in an epoch."""
        video = clip.sample.video
        views = self.cache.unit(video.video_id).views
        if len(views) == 1:
            return clip
        digest = hashlib.sha256(f"{seed} {epoch} {video.video_id}".encode()).digest()
        k = int.from_bytes(digest[:8], "little") % len(views)
        return replace(clip, rendition=Rendition(video, views[k], k))

    def evaluation(self, video: Video) -> Rendition:
        """The video as it is evaluated."""
        return Rendition(video, self.cache.unit(video.video_id).views[0])

    def collate(self, clips: Sequence[Clip]) -> Batch:
        """Read the features of some clips and pad them together. Frames two clips share are read once."""
        lengths = [len(c.frames) for c in clips]
        B, T = len(clips), max(lengths)
        frame_padding = torch.arange(T)[None] >= torch.tensor(lengths)[:, None]
        seen = [c.rendition or self.evaluation(c.sample.video) for c in clips]
        of_rendition: dict[Rendition, list[IntArray]] = {}
        for rendition, clip in zip(seen, clips, strict=True):
            of_rendition.setdefault(rendition, []).append(clip.frames)
        parts = [Part(rendition, np.unique(np.concatenate(frames))) for rendition, frames in of_rendition.items()]
        c5, cell_padding, live = self._frames(parts)
        ends = np.cumsum([len(p.frames) for p in parts]).tolist()
        place = {p.rendition: (end - len(p.frames), p.frames) for p, end in zip(parts, ends, strict=True)}
        frame_index = torch.zeros(B, T, dtype=torch.int64)
        for b, (rendition, clip) in enumerate(zip(seen, clips, strict=True)):
            offset, frames = place[rendition]
            rows = torch.from_numpy(np.searchsorted(frames, clip.frames) + offset)
            frame_index[b] = rows[0]
            frame_index[b, : len(rows)] = rows
        tokens, token_padding = self._tokens(clips)
        inputs = Inputs(c5, cell_padding, frame_index, frame_padding, tokens, token_padding)
        return Batch(
            samples=[c.sample for c in clips],
            sentences=[self.cache.samples.sentence(c.text_row) for c in clips],
            views=[rendition.view for rendition in seen],
            frames=[torch.from_numpy(c.frames) for c in clips],
            inputs=inputs,
            targets=None if self.targets is None else self._targets(clips, seen, T),
            live=live,
        )

    def _frames(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        """C5 of the batch's distinct frames, its padding, and what live encoders need instead (nothing here)."""
        return *self._maps("c5", parts), ()

    def _read(self, level: str, part: Part, out: Tensor | None = None) -> Tensor:
        """One level of a part's frames (n, h, w, C), into ``out`` where given; quantised values are decoded here."""
        video = part.rendition.video.video_id
        rows = self.cache.unit(video).rows(part.frames, f"{self.cache.path}, video {video}")
        return read_features(self.cache.store, video_key(video), array_name(level, part.rendition.index), rows, out)

    def _shape(self, level: str, part: Part) -> tuple[int, ...]:
        """(rows, columns, channels) of one level of a part."""
        arrays = self.cache.store.arrays(video_key(part.rendition.video.video_id))
        return arrays[array_name(level, part.rendition.index)].shape[1:]

    def _maps(self, level: str, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
        """Feature maps of one level at some frames of some videos, padded to the largest: (U, h, w, C) and padding."""
        shapes = [self._shape(level, part) for part in parts]
        count = sum(len(part.frames) for part in parts)
        h, w, channels = max(s[0] for s in shapes), max(s[1] for s in shapes), shapes[0][2]
        maps, padding = self._empty(level, (count, h, w, channels)), torch.zeros(count, h, w, dtype=torch.bool)
        at = 0
        for part, (rows, columns, _) in zip(parts, shapes, strict=True):
            block = slice(at, at + len(part.frames))
            self._read(level, part, out=maps[block, :rows, :columns])
            for tensor, value in ((maps, 0), (padding, True)):
                tensor[block, rows:], tensor[block, :, columns:] = value, value
            at += len(part.frames)
        return maps, padding

    def _empty(self, level: str, shape: tuple[int, ...]) -> Tensor:
        """Memory for stored features."""
        return self.allocate(level, shape, READ[self.cache.recipe.dtype])

    def _tokens(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        texts = {c.text_row: self.cache.text(c.text_row) for c in clips}
        M = max(len(t) for t in texts.values())
        tokens = torch.zeros(len(clips), M, self.cache.recipe.text_width)
        padding = torch.ones(len(clips), M, dtype=torch.bool)
        for b, clip in enumerate(clips):
            text = texts[clip.text_row]
            tokens[b, : len(text)], padding[b, : len(text)] = text, False
        return tokens, padding

    def _targets(self, clips: Sequence[Clip], seen: Sequence[Rendition], T: int) -> Targets:
        boxes, in_moment = np.zeros((len(clips), T, 4)), np.zeros((len(clips), T), dtype=bool)
        spans, inside = [], []
        for b, (clip, rendition) in enumerate(zip(clips, seen, strict=True)):
            slots = np.flatnonzero(slots_in(clip.frames, clip.sample.moment))
            boxes[b, slots] = self._boxes(clip, rendition, clip.frames[slots])
            in_moment[b, slots] = True
            spans.append((slots[0], slots[-1]))
            inside.append(Part(rendition, clip.frames[slots]))
        roi, c3, c4 = self._levels(clips, inside)
        return Targets(
            boxes=torch.from_numpy(boxes).float(),
            in_moment=torch.from_numpy(in_moment),
            span=torch.tensor(np.array(spans), dtype=torch.int64),
            size=torch.tensor([(r.view.width, r.view.height) for r in seen]),
            roi=roi,
            c3=c3,
            c4=c4,
        )

    def _boxes(self, clip: Clip, rendition: Rendition, frames: IntArray) -> FloatArray:
        """Target boxes in fractions of the rendition (n, 4). Raises CacheError when the view does not show one."""
        boxes = rendition.view.to_fractions(clip.sample.boxes_at(frames))
        if not (boxes[:, 2:] > 0).all():
            raise CacheError(
                f"{self.cache.path}: a view of video {rendition.video.video_id} does not show the target",
                sample=clip.sample.sample_id,
                found=f"frames {frames[~(boxes[:, 2:] > 0).all(1)][:5].tolist()}",
                hint="extract again; annotations and views no longer fit each other",
            )
        return boxes

    def _levels(
        self, clips: Sequence[Clip], inside: Sequence[Part]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Regions, C3 maps and C4 maps of the slots inside the moments, as far as they are wanted."""
        if self.targets == "roi":
            return self._regions(clips, inside), None, None
        if self.targets == "full":
            return None, self._maps("c3", inside)[0], self._maps("c4", inside)[0]
        return None, None, None

    def _regions(self, clips: Sequence[Clip], inside: Sequence[Part]) -> Tensor:
        """Stored regions of every clip's moment, clip after clip; one read for neighbours of one rendition."""
        regions = self._empty("roi", (sum(len(p.frames) for p in inside), *self._shape("roi", inside[0])))
        at = 0
        for rendition, members in groupby(zip(clips, inside, strict=True), key=lambda pair: pair[1].rendition):
            video = rendition.video.video_id
            unit, where = self.cache.unit(video), f"{self.cache.path}, video {video}"
            rows = np.concatenate([unit.rows_of_target(c.sample.target_id, p.frames, where) for c, p in members])
            block = regions[at : at + len(rows)]
            read_features(self.cache.store, video_key(video), array_name("roi", rendition.index), rows, block)
            at += len(rows)
        return regions


def draw_crops(slots: IntArray, draws: FloatArray) -> IntArray:
    """Which slots the temporal crop leaves of n clips: first slot and the one after the last (n, 2).

    ``slots`` (n, 3): how many there are, first and last slot in the moment. ``draws`` (n, 3): uniform in [0, 1); whether to
    crop, and how much of what lies before and after the moment.
    """
    count, first, last = slots.T
    cropped = draws[:, 0] < 0.5
    start = np.floor(draws[:, 1] * first).astype(np.int64)
    after = count - last - 1
    end = np.where(after > 0, last + 2 + np.floor(draws[:, 2] * after).astype(np.int64), count)
    return np.stack([np.where(cropped, start, 0), np.where(cropped, end, count)], axis=1)
