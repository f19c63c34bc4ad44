"""Batches for live encoders: C4 maps out of the cache, or pixels out of the videos, in place of C5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...cache.batch import LiveFrames
from ...cache.contents import Contents
from ...cache.dataset import CachedDataset, Clip, Part, Rendition
from ...cache.index import Cache
from ...cache.sampling import Sampling
from ...cache.schema import Video, View, has_boxes
from ...errors import CacheError, UsageError
from ...extract.augment import draw_view
from ...extract.encoders.backbone import build_backbone
from ...extract.transforms import apply_view
from ...extract.video.decode import read_frames
from ...extract.video.video_files import find_video_files, require_some


def open_live_split(
    mode: str, cache: Cache, split: str, sampling: Sampling, targets: str | None, videos: Path | None
) -> CachedDataset:
    """A split as a training mode reads it. ``targets`` as in `CachedDataset`; ``videos``: their folder, end to end."""
    if mode == "text":
        return LiveText(cache, split, sampling, targets)
    if mode == "last-stage":
        return LiveLastStage(cache, split, sampling, targets)
    if videos is None:
        raise UsageError("a head trained end to end reads pixels", hint="--videos DIR, the folder of the videos")
    return LivePixels(cache, split, sampling, targets, videos)


class LiveText(CachedDataset):
    """Cached vision; token features come from the encoder in the step."""

    def _tokens(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(clips), 1, 0), torch.zeros(len(clips), 1, dtype=torch.bool)


class LiveLastStage(CachedDataset):
    """Cached C4 in place of C5."""

    def _check_request(self) -> None:
        super()._check_request()
        if self.cache.recipe.levels != "full":
            raise CacheError(
                f"{self.cache.path} has no C4 maps for the last stage to train on",
                expected="a cache extracted with --levels full",
                found=f"--levels {self.cache.recipe.levels}",
            )

    def _frames(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        blocks = [self._read("c4", part) for part in parts]
        return live_frames(blocks, [self._shape("c5", part)[:2] for part in parts])


class LivePixels(LiveText):
    """Pixels, decoded when asked for, and sentences as they are; of the cache only the annotation is read."""

    def __init__(self, cache: Cache, split: str, sampling: Sampling, targets: str | None, videos: Path) -> None:
        self.backbone = build_backbone(cache.recipe.backbone, "random")
        table = cache.samples
        wanted = {
            v: table[i].video for i, (v, s) in enumerate(zip(table.video_ids, table.splits, strict=True)) if s == split
        }
        self.files = find_video_files(wanted.values(), videos, cache.recipe.dataset)
        require_some(self.files, videos)
        super().__init__(cache, split, sampling, targets)

    def _available(self) -> set[str]:
        return {video for video, file in self.files.items() if isinstance(file, Path)}

    def contents(self) -> Contents:
        """See `CachedDataset.contents`; which files the cache was made of is no matter."""
        return Contents.of(self.cache.samples, self.split, self.rows, self.cache.recipe.fingerprint)

    def _check_request(self) -> None:
        """Any level of detail will do: nothing is read of it."""

    def redraw(self, clip: Clip, seed: int, epoch: int, position: int) -> Clip:
        """The clip through a view of its own, drawn anew for every sample and epoch; the target stays in sight."""
        sample, rng = clip.sample, np.random.default_rng([seed, epoch, position, 1])
        view = draw_view(rng, sample.video, self.cache.recipe.resolution, sample.boxes[has_boxes(sample.boxes)])
        return replace(clip, rendition=Rendition(sample.video, view))

    def evaluation(self, video: Video) -> Rendition:
        recipe = self.cache.recipe
        return Rendition(video, View.evaluation(video.width, video.height, recipe.resolution, recipe.max_side))

    def _frames(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
        stride = self.backbone.levels[-1].stride
        views = [part.rendition.view for part in parts]
        return live_frames(
            [self.pixels(part) for part in parts], [(-(-v.height // stride), -(-v.width // stride)) for v in views]
        )

    def pixels(self, part: Part) -> Tensor:
        """Normalised pixels of a part's frames: (n, 3, view.height, view.width)."""
        video, view = part.rendition.video, part.rendition.view
        file = self.files[video.video_id]
        assert isinstance(file, Path)
        decoded = np.concatenate(list(read_frames(file, part.frames, width=video.width, height=video.height)))
        return apply_view(decoded, view, self.backbone.mean, self.backbone.std)

    def _levels(self, clips: Sequence[Clip], inside: Sequence[Part]) -> tuple[None, None, None]:
        """Nothing: regions come from the step's own C3 and C4."""
        return None, None, None


def live_frames(
    blocks: Sequence[Tensor], cells: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor, tuple[LiveFrames, ...]]:
    """Blocks of frames, one after the other, as groups of equal size; ``cells`` (rows, columns) of each block's C5.

    Returns a C5 without channels (U, h, w, 0), its padding (U, h, w), and the groups.
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
