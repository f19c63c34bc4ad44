"""A video during extraction: what is to be written of it, and how much is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..cache.index import Cache
from ..cache.needs import Needs
from ..cache.sampling import FloatArray, IntArray, neighbours
from ..cache.schema import Recipe, Video
from ..cache.stores.quantise import FeatureWriter
from ..cache.video_unit import VideoUnit, more_key, video_key
from ..cache.view import View
from ..errors import CacheError, VideoError
from .augment import stored_views
from .features import Regions, layout, rows_at, sums_of_frames
from .video.channel import DecodeJob
from .video.source import WatchedFile
from .windows import Windows


@dataclass
class PendingVideo:
    """One video during extraction: its first unit, or a further unit that adds to it."""

    video: Video
    key: str
    """Key of the unit that is written."""
    grid: IntArray
    """(F,) ascending source frames that are encoded."""
    mapped: NDArray[np.bool_]
    """(F,) frames whose maps are stored; of the others only new regions are stored."""
    wanted: FloatArray
    """(R, 5) regions that are stored."""
    views: list[View]
    regions: list[Regions]
    """One for each view."""
    missing: int
    """Frames of all views that are not written yet."""
    rate_is_assumed: bool
    """Whether the annotated rate is an assumption of the dataset."""
    known: VideoUnit | None = None
    """The stored features of the video, if there are any."""
    windows: list[Windows] = field(default_factory=list)
    """One for each view, for an encoder that takes several frames at once."""
    source: WatchedFile | None = None
    """The video's file, from the start of decoding on."""
    failed: bool = False
    features: FeatureWriter | None = None
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Level → (2, C): sum and sum of squares over the cells of view 0, so far, of frames whose maps are stored."""
    opened: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(
        cls,
        video: Video,
        frames: IntArray,
        regions: FloatArray,
        recipe: Recipe,
        rate_is_assumed: bool,
        known: VideoUnit | None = None,
    ) -> PendingVideo:
        """``frames`` (f,): those whose maps are missing in ``known``; ``regions`` (R, 5): those missing in it."""
        grid = np.union1d(frames, regions[:, 0].astype(np.int64))
        views = stored_views(video, recipe)
        cut = [Regions.of(regions, grid, view) for view in views]
        key = video_key(video.video_id)
        if known and key in known.keys:
            key = more_key(video.video_id, frames, regions)
        missing, mapped = len(grid) * len(views), np.isin(grid, frames)
        return cls(video, key, grid, mapped, regions, views, cut, missing, rate_is_assumed, known)

    @property
    def is_first(self) -> bool:
        """Whether nothing of the video is stored yet."""
        return self.known is None

    @property
    def video_id(self) -> str:
        return self.video.video_id

    def decode_job(self, file: Path, recipe: Recipe) -> DecodeJob:
        """The decoding job: the grid's frames, and the neighbours that the encoder's window needs."""
        visual, size = recipe.visual, (self.video.width, self.video.height)
        around = neighbours(self.grid, self.video.frame_count, recipe.fps / self.video.fps, visual.window)
        decoded = np.unique(around)
        self.windows = [Windows(around, decoded) for _ in self.views] if visual.window > 1 else []
        job = DecodeJob(self.video_id, file, decoded, *size, self.views, visual.mean, visual.std)
        return replace(job, annotated=self.video, rate_is_assumed=self.rate_is_assumed)

    def gathered(self, view: int, start: int, frames: Tensor) -> tuple[int, Tensor]:
        """Input of the encoder after these decoded frames: index of the first, and the frames or complete windows."""
        return self.windows[view].add(start, frames) if self.windows else (start, frames)

    def layout(self, recipe: Recipe) -> dict[str, tuple[int, ...]]:
        """Name and shape of every feature array of the unit."""
        return layout(recipe, self.views, int(self.mapped.sum()), len(self.wanted))

    def count_in(self, levels: Mapping[str, Tensor], recipe: Recipe, mapped: NDArray[np.bool_]) -> None:
        """Add the next frames of view 0, (n, C, h, w) per level, to the sums; ``mapped`` (n,): frames that count."""
        for level in recipe.levels if mapped.any() else ():
            total = self.sums.setdefault(level.name, np.zeros((2, level.channels)))
            for frame in sums_of_frames(rows_at(levels[level.name], mapped)):
                total += frame

    def attributes(self, fingerprint: str) -> dict[str, object]:
        """The unit's attributes. Raises VideoError if the file changed during decoding, or is not the known unit's."""
        source = self.source.record() if self.source else {}
        before = self.known.source.get("sha256") if self.known else None
        if source and before and source["sha256"] != before:
            raise VideoError(
                f"video {self.video_id} was extracted from another file than the present one",
                expected=f"SHA-256 {before[:16]}…",
                found=f"SHA-256 {source['sha256'][:16]}…",
                effect="nothing was added to the video",
            )
        return {
            "fingerprint": fingerprint,
            "frames": self.grid[self.mapped].tolist(),
            "views": [view.to_json() for view in self.views],
            **({"source": source} if source else {}),
        }


def plan(cache: Cache, video_id: str, rate_is_assumed: bool) -> PendingVideo | None:
    """The part of a video that the annotation set needs and the cache lacks; None if nothing is missing.

    Raises CacheError if the stored units are damaged, or their video has another size.
    """
    rows = cache.samples.rows_of_videos[video_id]
    video, needs = cache.samples.video(rows[0]), Needs.of(cache.samples, rows, cache.recipe)
    known = cache.unit(video_id) if cache.unit_keys(video_id) else None
    if known is None:
        return PendingVideo.of(video, needs.all_frames(), needs.all_regions(), cache.recipe, rate_is_assumed)
    was = known.views[0]
    if (was.source_width, was.source_height) != (video.width, video.height):
        raise CacheError(
            f"{cache.path} holds video {video_id} in another size than annotation set {cache.annotations.name} states",
            expected=f"{was.source_width}x{was.source_height}",
            found=f"{video.width}x{video.height}",
            effect="nothing was added to the video, and this annotation set does not read its features",
            hint="correct the annotation; or, if it is another video, give it another id",
        )
    frames, regions = known.lacking(needs)
    if not len(frames) and not len(regions):
        return None
    return PendingVideo.of(video, frames, regions, cache.recipe, rate_is_assumed, known)
