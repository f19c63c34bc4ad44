"""Batches for encoders that train: maps of the level before the last from the cache, or pixels from the videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...cache.batches.batch import LiveFrames
from ...cache.batches.clips import Clip, FrameSet, Rendition
from ...cache.batches.dataset import CachedDataset
from ...cache.batches.reading import FeatureReader, Levels
from ...cache.contents import Contents
from ...cache.index import Cache
from ...cache.sampling import Sampling, neighbours
from ...cache.schema import Video, has_boxes
from ...cache.view import View
from ...errors import CacheError, UsageError
from ...extract.augment import draw_view
from ...extract.transforms import apply_view
from ...extract.video.decode import read_frames
from ...extract.video.video_files import VideoFiles, find_video_files, require_some


def open_live_split(
    mode: str,
    cache: Cache,
    split: str,
    sampling: Sampling,
    targets: Sequence[str] | None,
    level: str,
    videos: Path | None,
) -> CachedDataset:
    """A split as read in a training mode; arguments as of `CachedDataset`. ``videos``: the folder of the videos, for
    ``end-to-end``."""
    if mode == "text":
        return CachedDataset(cache, split, sampling, targets, level, SentenceReader)
    if mode == "last-stage":
        return CachedDataset(cache, split, sampling, targets, level, LastStageReader)
    if videos is None:
        raise UsageError("a head trained end to end reads pixels", hint="--videos DIR, the folder of the videos")
    return LivePixels(cache, split, sampling, targets, level, videos)


class SentenceReader(FeatureReader):
    """Cached visual features. Token features are empty here: the text encoder computes them in the step."""

    def tokens(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(clips), 1, 0), torch.zeros(len(clips), 1, dtype=torch.bool)


class LastStageReader(FeatureReader):
    """Cached maps of the level before the last, in place of the last level's."""

    def check(self) -> None:
        super().check()
        *before, last = (level.name for level in self.cache.recipe.visual.levels)
        if self.level != last or not before:
            raise CacheError(
                f"{self.cache.path}: there is nothing for the last stage alone to train on",
                expected=f"a head that remembers level {last}, made from the level before it",
                found=f"level {self.level} of {', '.join((*before, last))}",
                hint="train another mode, or set model.memory_level to the last level",
            )
        self.require_kept(before[-1], ("maps",))

    def frames(self, parts: Sequence[FrameSet]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        before = self.cache.recipe.visual.levels[-2].name
        blocks = [self.read(before, part) for part in parts]
        return live_frames(blocks, [self.shape(self.level, part)[:2] for part in parts])


class PixelReader(SentenceReader):
    """Pixels, decoded on demand, and sentences without token features."""

    files: VideoFiles

    def check(self) -> None:
        """No requirement: nothing is read from the cache's features."""

    def evaluation(self, video: Video) -> Rendition:
        recipe = self.cache.recipe
        return Rendition(video, View.evaluation(video.width, video.height, recipe.resolution, recipe.max_side))

    def frames(self, parts: Sequence[FrameSet]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        (level,) = (k for k in self.cache.recipe.visual.levels if k.name == self.level)
        return live_frames([self.pixels(part) for part in parts], [level.cells(part.rendition.view) for part in parts])

    def pixels(self, part: FrameSet) -> Tensor:
        """Normalised pixels of frames: (n, 3, view.height, view.width); (n, window, 3, …) for an encoder with a
        window."""
        video, view, visual = part.rendition.video, part.rendition.view, self.cache.recipe.visual
        file = self.files[video.video_id]
        assert isinstance(file, Path)
        around = neighbours(part.frames, video.frame_count, self.cache.recipe.fps / video.fps, visual.window)
        wanted = np.unique(around)
        decoded = np.concatenate(list(read_frames(file, wanted, width=video.width, height=video.height)))
        pixels = apply_view(decoded, view, visual.mean, visual.std)
        return pixels if visual.window == 1 else pixels[np.searchsorted(wanted, around)]

    def targets(self, clips: Sequence[Clip], inside: Sequence[FrameSet]) -> tuple[Levels, Levels]:
        """Empty: regions are cut from the maps that the step computes."""
        return {}, {}


class LivePixels(CachedDataset):
    """Samples whose video files exist. Of the cache only the annotation is read."""

    def __init__(
        self,
        cache: Cache,
        split: str,
        sampling: Sampling,
        targets: Sequence[str] | None,
        level: str,
        videos: Path,
    ) -> None:
        table = cache.samples
        wanted = {
            v: table[i].video for i, (v, s) in enumerate(zip(table.video_ids, table.splits, strict=True)) if s == split
        }
        self.files = find_video_files(wanted.values(), videos, cache.annotations.dataset)
        require_some(self.files, videos)
        super().__init__(cache, split, sampling, targets, level, PixelReader)
        assert isinstance(self.reader, PixelReader)
        self.reader.files = self.files

    def _available(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        return np.array([isinstance(self.files[self.cache.samples.video_ids[row]], Path) for row in rows], dtype=bool)

    def contents(self) -> Contents:
        """See `CachedDataset.contents`. The video files that made the cache are not compared."""
        return Contents.of(self.cache.samples, self.split, self.rows, self.cache.recipe.fingerprint)

    def redraw(self, clip: Clip, seed: int, epoch: int, position: int) -> Clip:
        """The clip with a random view of its own for every sample and epoch; the target stays inside."""
        sample, rng = clip.sample, np.random.default_rng([seed, epoch, position, 1])
        view = draw_view(rng, sample.video, self.cache.recipe.resolution, sample.boxes[has_boxes(sample.boxes)])
        return replace(clip, rendition=Rendition(sample.video, view))


def live_frames(
    blocks: Sequence[Tensor], cells: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
    """Group consecutive blocks of frames by frame size. ``cells``: (rows, columns) of each block's maps.

    Returns maps without channels (U, h, w, 0), their padding (U, h, w), and the groups.
    """
    h, w = max(c[0] for c in cells), max(c[1] for c in cells)
    counts = [len(b) for b in blocks]
    starts = np.cumsum([0, *counts])
    padding = torch.ones(sum(counts), h, w, dtype=torch.bool)
    groups: dict[torch.Size, list[int]] = {}
    for i, (block, (rows, columns)) in enumerate(zip(blocks, cells, strict=True)):
        padding[starts[i] : starts[i + 1], :rows, :columns] = False
        groups.setdefault(block.shape[1:], []).append(i)
    live = tuple(
        LiveFrames(
            torch.cat([torch.arange(starts[i], starts[i + 1]) for i in members]),
            torch.cat([blocks[i] for i in members]),
        )
        for members in groups.values()
    )
    return torch.zeros(*padding.shape, 0), padding, live
