"""The dataset of a split: selects samples of a cache, their slots and their views."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from os import PathLike, fspath
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import location
from ..contents import Contents
from ..index import Cache
from ..sampling import FloatArray, IntArray, Sampling, moment_slots, sample_many, slots_in
from ..schema import Sample, has_boxes
from ..stores.buffers import Allocate
from .batch import Batch
from .clips import Clip, Rendition, draw_crops
from .collate import collate
from .reading import FeatureReader

log = logging.getLogger(__name__)

Place = str | PathLike[str]
ROWS_AT_ONCE = 4096
NAMED = 5
"""Videos that a warning lists by name; it counts the rest."""
SPANS = ("segment_start", "segment_end", "moment_start", "moment_end", "fps")


class CachedDataset(torch.utils.data.Dataset[Clip]):
    """The samples of a split whose features are in the cache: a map-style torch dataset with its own ``collate``.

    ``cache``: an open cache, or its path or URL.
    ``sampling``: the rule that selects a clip's frames from the stored ones.  [the cache's fps, up to 100 frames]
    ``level``: the level of which maps are read.  [the last]
    ``targets``: None for inference; for training, the levels of which regions or maps at the target boxes are read.
    ``reader``: the class that reads features.

    Attributes:
    ``missing``: ids of samples with features that are not in the cache.
    ``excluded``: with targets, ids of samples without a slot in the moment.
    """

    def __init__(
        self,
        cache: Cache | Place,
        split: str,
        sampling: Sampling | None = None,
        targets: Sequence[str] | None = None,
        level: str | None = None,
        reader: type[FeatureReader] = FeatureReader,
    ) -> None:
        targets = [targets] if isinstance(targets, str) else targets
        cache = cache if isinstance(cache, Cache) else Cache.open(location(fspath(cache)))
        self.cache, self.split, self.targets = cache, split, targets
        self.sampling = sampling or Sampling(cache.recipe.fps)
        self._check_request()
        self.reader = reader(cache, level or cache.recipe.visual.levels[-1].name, targets or ())
        self.reader.check()
        self.mistaken: str | None = None
        """Videos with stored features of another file than the annotation set describes, as a text; None without
        any."""
        table, chosen = cache.samples, cache.annotations.rows(split)
        there = self._available(chosen)
        self.missing = [table.sample_id(i) for i, found in zip(chosen, there, strict=True) if not found]
        self.rows = [i for i, found in zip(chosen, there, strict=True) if found]
        self.excluded: list[int | str] = []
        if targets is not None:
            self._exclude_without_moment()
        self.asking = np.array(self.rows, dtype=np.int64)
        """(N,) the table row that gives each position its sentence. Evaluation permutes it to test the role of text."""
        if not self.rows:
            raise CacheError(
                f"{cache.path}: no video of split {split!r} is in the cache",
                found=self.mistaken and f"features of other files than in {cache.annotations.name}: {self.mistaken}",
                hint="run stvg extract first",
            )
        if self.missing:
            log.warning("%d samples of %s lack features in the cache; repeat stvg extract", len(self.missing), split)

    def __repr__(self) -> str:
        also = "".join(
            f", {len(ids):,} {why}"
            for ids, why in ((self.missing, "without features"), (self.excluded, "left out"))
            if ids
        )
        return f"Dataset {self.split} of {self.cache.path}: {len(self):,} samples{also}"

    def _available(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """(n,) whether all features of a sample can be read."""
        there = self.cache.covered(rows)
        lacking = [row for row, found in zip(rows, there, strict=True) if not found]
        if lacking and (videos := self.cache.mistaken(lacking)):
            self.mistaken = ", ".join(videos[:NAMED]) + (f" and {len(videos) - NAMED:,} more" if videos[NAMED:] else "")
            log.warning(
                "%s: features of %d videos are of another file or size than in annotation set %s and are not read: %s; "
                "repeat stvg extract for details",
                *(self.cache.path, len(videos), self.cache.annotations.name, self.mistaken),
            )
        return there

    def _check_request(self) -> None:
        splits = sorted(set(self.cache.samples.splits))
        if self.split not in splits:
            raise CacheError(f"{self.cache.path} has no split {self.split!r}", found=", ".join(splits))
        recipe = self.cache.recipe
        share = recipe.fps / self.sampling.fps
        if share not in (1, 2, 4, 8, 16):  # halving fps keeps a subset of the grid, exactly
            raise CacheError(
                f"{self.cache.path} holds frames at {recipe.fps} fps", found=f"{self.sampling.fps} fps requested"
            )

    def _exclude_without_moment(self) -> None:
        """Exclude samples without a slot in their moment. Samples with gaps in their boxes are checked one by one."""
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

    def _slots(self, rows: IntArray, sampling: Sampling | None = None) -> IntArray:
        """(n, 3) for table rows: number of slots, first and last slot in the moment, or -1 and -1 if there is none."""
        columns, found = self.cache.samples.columns, np.empty((len(rows), 3), dtype=np.int64)
        for at in range(0, len(rows), ROWS_AT_ONCE):
            start, end, first, last, fps = (columns[name][rows[at : at + ROWS_AT_ONCE]] for name in SPANS)
            frames, exists = sample_many(start, end, fps, sampling or self.sampling)
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
                f"{self.cache.path}: sample {sample.sample_id} has no target box at a sampled frame",
                found=f"frames {inside[~known][:5].tolist()}",
                hint="extract with the max_frames of the training, so that annotations are checked at these frames",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Clip:
        sample = self.cache.samples[self.rows[i]]
        return Clip(sample, self.cache.samples.sentence(int(self.asking[i])), sample.frames(self.sampling))

    def contents(self) -> Contents:
        """A description of these videos and samples for the record of a run."""
        sources = self.cache.sources(self.rows)
        return Contents.of(self.cache.samples, self.split, self.rows, self.cache.recipe.fingerprint, sources)

    def samples(self) -> Iterator[Sample]:
        """The annotation of every position, in order."""
        return (self.cache.samples[row] for row in self.rows)

    def part(self, index: int, count: int) -> Self:
        """A dataset of every ``count``-th sample, starting with sample number ``index``."""
        other = copy(self)
        for known in ("extents", "croppable"):
            other.__dict__.pop(known, None)
        other.rows, other.asking = self.rows[index::count], self.asking[index::count]
        return other

    def reading_into(self, allocate: Allocate) -> Self:
        """A dataset of the same samples that reads into memory from ``allocate``."""
        other = copy(self)
        other.reader = self.reader.into(allocate)
        return other

    @cached_property
    def extents(self) -> IntArray:
        """(N, 5) per position: number of slots, first and last slot in the moment, width and height in pixels.

        If no slot is in the moment, the first and last slot of the clip are given.
        """
        rows, columns = np.array(self.rows, dtype=np.int64), self.cache.samples.columns
        slots = self._slots(rows)
        none = slots[:, 1] < 0
        slots[none, 1], slots[none, 2] = 0, slots[none, 0] - 1
        return np.concatenate([slots, np.stack([columns["width"][rows], columns["height"][rows]], axis=1)], axis=1)

    @cached_property
    def croppable(self) -> IntArray:
        """(N, 3) per position: number of slots before a crop, first and last of them in the moment."""
        if not self.sampling.ends:
            return self.extents[:, :3]
        slots = self._slots(np.array(self.rows, dtype=np.int64), self.sampling.unthinned)
        none = slots[:, 1] < 0
        slots[none, 1], slots[none, 2] = 0, slots[none, 0] - 1
        return slots

    def crop(self, clip: Clip, draws: FloatArray) -> Clip:
        """The paper's temporal crop, with probability 0.5: drop slots before and after the moment, never inside it.

        ``draws``: (3,) this clip's row for `draw_crops`. With ``sampling.ends``, clips are cropped before they are
        thinned, as in STCAT, so a cropped clip is sampled more densely. If thinning would then skip the moment, the
        clip is returned unchanged.
        """
        frames = self._before_thinning(clip) if self.sampling.ends else clip.frames
        inside = moment_slots(frames, clip.sample.moment)
        if inside is None:
            return clip
        start, end = draw_crops(np.array([[len(frames), *inside]]), draws[None])[0]
        kept = self.sampling.thinned(frames[start:end])
        return clip if moment_slots(kept, clip.sample.moment) is None else replace(clip, frames=kept)

    def _before_thinning(self, clip: Clip) -> IntArray:
        """All grid frames of a clip, or its thinned frames if the target lacks a box at a grid frame of the moment."""
        frames = clip.sample.frames(self.sampling.unthinned)
        inside = frames[slots_in(frames, clip.sample.moment)]
        return frames if has_boxes(clip.sample.boxes_at(inside)).all() else clip.frames

    def redraw(self, clip: Clip, seed: int, epoch: int, position: int) -> Clip:
        """The clip in a random stored view of its video that shows every target box, at least in part.

        Views are tried in a random order, which all sentences of a video share within an epoch. The evaluation view
        always shows every box.
        """
        video = clip.sample.video
        views = self.cache.unit(video.video_id).views
        if len(views) == 1:
            return clip
        digest = hashlib.sha256(f"{seed} {epoch} {video.video_id}".encode(errors="surrogatepass")).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(views))
        boxes = clip.sample.boxes[has_boxes(clip.sample.boxes)]
        k = next((int(k) for k in order if views[k].shows(boxes)), 0)
        return replace(clip, rendition=Rendition(video, views[k], k))

    def collate(self, clips: Sequence[Clip]) -> Batch:
        """Read the features of clips and pad them to one batch. Frames that clips share are read once."""
        return collate(clips, self.reader, self.targets is not None)
