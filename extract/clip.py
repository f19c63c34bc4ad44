"""A video on its way into the cache: what is wanted of it, and how much of that is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..cache.sampling import IntArray, video_grid
from ..cache.schema import Recipe, Sample, Video
from ..cache.stores.quantise import FeatureWriter
from ..cache.view import View
from .augment import stored_views
from .encoders.backbone import Backbone
from .features import Regions, layout, sums_of_frames
from .video.agreement import rate_is_assumed
from .video.channel import DecodeJob
from .video.source import Reading


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

    def decode_job(self, file: Path, backbone: Backbone) -> DecodeJob:
        """What is to be decoded of its file."""
        size = (self.video.width, self.video.height)
        job = DecodeJob(self.video_id, file, self.grid, *size, self.views, backbone.mean, backbone.std)
        return replace(job, annotated=self.video, rate_is_assumed=self.rate_is_assumed)

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
