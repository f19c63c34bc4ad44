"""Reading the features of a batch from a cache: maps of frames, features of targets, tokens of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import groupby
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...config import nearest
from ...errors import CacheError
from ..arrays import array_name, regions_of
from ..index import Cache
from ..schema import Video
from ..stores.buffers import Allocate, fresh
from ..stores.quantise import READ
from .batch import LiveFrames
from .clips import Clip, FrameSet, Rendition

Levels = dict[str, Tensor]


class FeatureReader:
    """Reads the maps of one level at a batch's frames, and regions or maps of other levels at the targets.

    Training modes with live encoders use subclasses; see `open_live_split`.
    """

    def __init__(self, cache: Cache, level: str, of_targets: Sequence[str] = (), allocate: Allocate = fresh) -> None:
        self.cache, self.level, self.of_targets, self.allocate = cache, level, tuple(of_targets), allocate

    def into(self, allocate: Allocate) -> Self:
        """The same reader with another allocator for its results."""
        other = copy(self)
        other.allocate = allocate
        return other

    def check(self) -> None:
        """Raise CacheError unless the cache keeps all levels that this reader reads."""
        self.require_kept(self.level, ("maps",))
        for level in self.of_targets:
            self.require_kept(level, ("maps", "regions"))

    def require_kept(self, level: str, forms: Sequence[str]) -> None:
        """Raise CacheError unless the cache keeps a level in one of these forms."""
        recipe, where = self.cache.recipe, self.cache.path
        if level not in recipe.kept:
            hint = nearest(level, recipe.kept)
            raise CacheError(f"{where} has no level {level!r}", found=", ".join(recipe.kept), hint=hint)
        if recipe.kept[level] not in forms:
            last = level in {k.name for k in recipe.visual.last_levels}
            wanted = "roi, full or last" if last else "roi or full" if "regions" in forms else "full"
            raise CacheError(
                f"{where} keeps no {' or '.join(forms)} of level {level}",
                expected=f"a cache extracted with --levels {wanted}",
                found=f"--levels {recipe.keep}",
            )

    def evaluation(self, video: Video) -> Rendition:
        """The video with its evaluation view."""
        return Rendition(video, self.cache.unit(video.video_id).views[0])

    def frames(self, parts: Sequence[FrameSet]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        """Maps of the batch's distinct frames, their padding, and the input of live encoders (here empty)."""
        return *self.maps(self.level, parts), ()

    def targets(self, clips: Sequence[Clip], inside: Sequence[FrameSet]) -> tuple[Levels, Levels]:
        """Regions and maps by level at the slots inside the moments. A level is in the form that the cache keeps."""
        kept = self.cache.recipe.kept
        regions = {name: self.regions(name, clips, inside) for name in self.of_targets if kept[name] == "regions"}
        maps = {name: self.maps(name, inside)[0] for name in self.of_targets if kept[name] == "maps"}
        return regions, maps

    def read(self, level: str, part: FrameSet, out: Tensor | None = None) -> Tensor:
        """Decoded maps of one level at some frames: (n, h, w, C), written into ``out`` if given."""
        unit = self.cache.unit(part.rendition.video.video_id)
        return unit.read(array_name(level, part.rendition.index), unit.places(part.frames), out)

    def shape(self, array: str, part: FrameSet) -> tuple[int, ...]:
        """Shape of an array's rows as stored for a rendition."""
        return self.cache.unit(part.rendition.video.video_id).shape(array_name(array, part.rendition.index))

    def maps(self, level: str, parts: Sequence[FrameSet]) -> tuple[Tensor, Tensor]:
        """Maps of one level at frames of several videos, padded to the largest: (U, h, w, C), and padding (U, h, w)."""
        shapes = [self.shape(level, part) for part in parts]
        count = sum(len(part.frames) for part in parts)
        h, w, channels = max(s[0] for s in shapes), max(s[1] for s in shapes), shapes[0][2]
        maps, padding = self._empty(level, (count, h, w, channels)), torch.zeros(count, h, w, dtype=torch.bool)
        at = 0
        for part, (rows, columns, _) in zip(parts, shapes, strict=True):
            block = slice(at, at + len(part.frames))
            self.read(level, part, out=maps[block, :rows, :columns])
            for tensor, value in ((maps, 0), (padding, True)):
                tensor[block, rows:], tensor[block, :, columns:] = value, value
            at += len(part.frames)
        return maps, padding

    def regions(self, level: str, clips: Sequence[Clip], inside: Sequence[FrameSet]) -> Tensor:
        """Stored regions at every clip's moment, in clip order: (G, S², C).

        Adjacent clips of a rendition share a read.
        """
        name = regions_of(level)
        regions = self._empty(name, (sum(len(p.frames) for p in inside), *self.shape(name, inside[0])))
        at = 0
        for rendition, members in groupby(zip(clips, inside, strict=True), key=lambda pair: pair[1].rendition):
            unit, wanted = self.cache.unit(rendition.video.video_id), list(members)
            frames = np.concatenate([part.frames for _, part in wanted])
            boxes = np.concatenate([clip.sample.boxes_at(part.frames) for clip, part in wanted])
            places = unit.region_places(frames, boxes)
            unit.read(array_name(name, rendition.index), places, regions[at : at + len(frames)])
            at += len(frames)
        return regions

    def tokens(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Token features of the clips' sentences (B, M, text width), and their padding (B, M)."""
        texts = {c.sentence: self.cache.texts.read(c.sentence) for c in clips}
        M = max(len(t) for t in texts.values())
        tokens = torch.zeros(len(clips), M, self.cache.recipe.text.width)
        padding = torch.ones(len(clips), M, dtype=torch.bool)
        for b, clip in enumerate(clips):
            text = texts[clip.sentence]
            tokens[b, : len(text)], padding[b, : len(text)] = text, False
        return tokens, padding

    def _empty(self, array: str, shape: tuple[int, ...]) -> Tensor:
        """Memory for stored features."""
        return self.allocate(array, shape, READ[self.cache.recipe.dtype])
