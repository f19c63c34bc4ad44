"""A video on its way into the cache: what is wanted of it, and how much of that is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..cache.sampling import IntArray, neighbours, video_grid
from ..cache.schema import Recipe, Sample, Video
from ..cache.stores.quantise import FeatureWriter
from ..cache.view import View
from .augment import stored_views
from .features import Regions, layout, sums_of_frames
from .video.agreement import rate_is_assumed
from .video.channel import DecodeJob
from .video.source import Reading
from .windows import Windows


@dataclass
class Clip:
    """One video on its way into the cache."""

    video: Video
    grid: IntArray
    """(F,) ascending source frames."""
    views: list[View]
    regions: list[Regions]
    """Per view."""
    missing: int
    """Frames of all views that are not written yet."""
    rate_is_assumed: bool
    """Whether the video's rate is not among its annotations."""
    windows: list[Windows] = field(default_factory=list)
    """Per view, for an encoder that looks at several frames at once."""
    source: Reading | None = None
    """Its file, once it is decoded."""
    failed: bool = False
    features: FeatureWriter | None = None
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Per kept level (2, C): sum and sum of squares over the cells of view 0 so far."""
    opened: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, samples: list[Sample], recipe: Recipe) -> Clip:
        video = samples[0].video
        grid = video_grid([s.segment for s in samples], video.fps, recipe.fps)
        views = stored_views(samples, recipe)
        regions = [Regions.of(samples, grid, recipe, view) for view in views]
        return cls(video, grid, views, regions, len(grid) * len(views), rate_is_assumed(recipe.dataset))

    @property
    def video_id(self) -> str:
        return self.video.video_id

    def decode_job(self, file: Path, recipe: Recipe) -> DecodeJob:
        """What is to be decoded of its file: its frames, and those that the encoder looks at around them."""
        visual, size = recipe.visual, (self.video.width, self.video.height)
        around = neighbours(self.grid, self.video.frame_count, recipe.fps / self.video.fps, visual.window)
        decoded = np.unique(around)
        self.windows = [Windows(around, decoded) for _ in self.views] if visual.window > 1 else []
        job = DecodeJob(self.video_id, file, decoded, *size, self.views, visual.mean, visual.std)
        return replace(job, annotated=self.video, rate_is_assumed=self.rate_is_assumed)

    def gathered(self, view: int, start: int, frames: Tensor) -> tuple[int, Tensor]:
        """What the encoder is given once these frames are decoded: position of the first, and frames or windows."""
        return self.windows[view].add(start, frames) if self.windows else (start, frames)

    def layout(self, recipe: Recipe) -> dict[str, tuple[int, ...]]:
        """Name and shape of every array of its unit."""
        return layout(recipe, self.views, len(self.grid), len(self.regions[0].frames))

    def count_in(self, levels: Mapping[str, Tensor], recipe: Recipe) -> None:
        """Add the next frames of view 0, (n, C, h, w) of every level, to the sums."""
        for level in recipe.levels:
            total = self.sums.setdefault(level.name, np.zeros((2, level.channels)))
            for frame in sums_of_frames(levels[level.name]):
                total += frame

    def attributes(self, fingerprint: str) -> dict[str, object]:
        """What its unit says of itself. Raises VideoError when its file changed while it was decoded."""
        regions = self.regions[0]
        return {
            "fingerprint": fingerprint,
            "frames": self.grid.tolist(),
            "views": [view.to_json() for view in self.views],
            "targets": regions.targets,
            "roi_frames": regions.frames.tolist(),
            "roi_targets": regions.target_index.tolist(),
            **({"source": self.source.record()} if self.source else {}),
        }
