"""The nouns every room shares: Video, Sample, View, Recipe.

At both ends of the pipeline everything is source frames (half-open spans) and source pixels (xyxy boxes); in the middle,
slots and cxcywh fractions. `View` is where boxes change from one to the other, beside its inverse.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CacheError
from .sampling import FloatArray, IntArray, Sampling, sample_frames, slots_in

FORMAT_VERSION = 3

Span = tuple[int, int]


@dataclass(frozen=True)
class Video:
    """One video file as its annotation describes it."""

    video_id: str
    path: str
    """Where the file lies below the dataset's video folder; HC-STVG only knows the name, and it is searched for."""
    width: int
    height: int
    fps: float
    """Source frames per second. For HC-STVG this is frame_count / 20, as the field counts it."""
    frame_count: int


@dataclass(frozen=True, eq=False)
class Sample:
    """One sentence about one video. Frames are 0-based source frames, spans half-open, boxes source pixels (xyxy).

    ``boxes``: (moment length, 4) float64, one row per source frame of the moment; NaN where the target has no box.
    """

    sample_id: int | str
    """VidSTG: the running number over a file's sentences. HC-STVG: the file name. Users' data: as given."""
    video: Video
    sentence: str
    qtype: str
    """Group the metrics are averaged over: 'declarative', 'interrogative', or 'all' where there is one kind only."""
    split: str
    segment: Span
    """The part of the video the model is given."""
    moment: Span
    """When it happens. May end one frame after the segment (VidSTG); never clipped."""
    boxes: FloatArray
    target_id: str = "0"
    """Names the object within its video; samples that share it share their boxes and their stored RoI features."""
    baseline_shift: int = 0
    """Frames by which the field's public evaluator places the moment later than it is: 1 for HC-STVG, whose 1-based
    ``st_frame`` it reads as 0-based. Only the ``tubedetr`` protocol looks at it, since published numbers carry it."""

    def frames(self, sampling: Sampling) -> IntArray:
        """Source frame of every slot of this sample's clip: (T,) ascending."""
        return sample_frames(self.segment, self.video.fps, sampling)

    def boxes_at(self, frames: IntArray) -> FloatArray:
        """Target boxes at source frames: (n, 4), NaN outside the moment and where the target has no box."""
        found = np.full((len(frames), 4), np.nan)
        inside = slots_in(frames, self.moment)
        found[inside] = self.boxes[frames[inside] - self.moment[0]]
        return found


def resized(width: int, height: int, short: int, max_side: int | None = None) -> tuple[int, int]:
    """(width, height) with short side ``short``, lowered until the long side fits ``max_side``.

    640x360 at 224/373 becomes 373x210: the cap wins over the short side. Rounding follows the public code; what it would
    round to nothing, 4000x16 at 64/107, is one pixel wide.
    """
    low, high = sorted((width, height))
    if max_side is not None and high / low * short > max_side:
        short = round(max_side * low / high)
    long = int(short * high / low) if short else max_side or 1
    return (max(short, 1), long) if width < height else (long, max(short, 1))


@dataclass(frozen=True)
class Crop:
    """A part cut out of a resized picture: all in whole pixels of the picture of ``width`` x ``height``."""

    width: int
    height: int
    """Size the source is brought to before it is cut."""
    left: int
    top: int
    cut_width: int
    cut_height: int


@dataclass(frozen=True)
class View:
    """The geometry of one rendition of a video: resize (view 0, the field's evaluation), or resize, crop, resize.

    Turns source pixel boxes into fractions of the rendition and back. Sizes are whole pixels.
    """

    source_width: int
    source_height: int
    width: int
    height: int
    crop: Crop | None = None

    @classmethod
    def evaluation(cls, source_width: int, source_height: int, resolution: int, max_side: int) -> View:
        """The field's evaluation geometry: short side ``resolution``, long side at most ``max_side``."""
        size = resized(source_width, source_height, resolution, max_side)
        return cls(source_width, source_height, *size)

    @classmethod
    def from_json(cls, stored: Sequence[int]) -> View:
        source_width, source_height, width, height, *crop = stored
        return cls(source_width, source_height, width, height, Crop(*crop) if crop else None)

    def to_json(self) -> list[int]:
        size = [self.source_width, self.source_height, self.width, self.height]
        return size + (list(vars(self.crop).values()) if self.crop else [])

    def _window(self) -> tuple[FloatArray, FloatArray]:
        """Left top corner and size of what the rendition shows, in source pixels: two (x, y)."""
        source = np.array([self.source_width, self.source_height], dtype=np.float64)
        if self.crop is None:
            return np.zeros(2), source
        scale = source / (self.crop.width, self.crop.height)
        return scale * (self.crop.left, self.crop.top), scale * (self.crop.cut_width, self.crop.cut_height)

    def to_fractions(self, boxes: FloatArray) -> FloatArray:
        """Source pixels xyxy (…, 4) → cxcywh in [0, 1], clamped to what the rendition shows."""
        start, size = (np.tile(v, 2) for v in self._window())
        x1, y1, x2, y2 = np.moveaxis(np.clip((boxes - start) / size, 0, 1), -1, 0)
        return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=-1)

    def to_pixels(self, boxes: FloatArray, beyond: bool = False) -> FloatArray:
        """cxcywh fractions (…, 4) → source pixels xyxy, clamped to the picture; ``beyond``: at its left and top only."""
        start, size = (np.tile(v, 2) for v in self._window())
        cx, cy, w, h = np.moveaxis(np.asarray(boxes, dtype=np.float64), -1, 0)
        corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)
        return np.clip(corners * size + start, 0, None if beyond else [self.source_width, self.source_height] * 2)


# Longest allowed long side per evaluation resolution: the baseline's table (spec: 224, 320 and 352 are the paper's).
MAX_SIDE = {64: 107, 96: 160, 128: 213, 160: 267, 192: 320, 224: 373, 256: 427, 288: 480, 320: 533, 352: 587, 384: 640, 416: 693, 448: 746, 480: 800, 800: 1333}  # fmt: skip  # noqa: E501


@dataclass(frozen=True)
class Level:
    """What an encoder gives of a frame: a map of ``channels`` with one cell for every ``stride`` pixels."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Recipe:
    """Everything that changes a stored feature. Two caches with equal fingerprints hold equal features.

    Library versions are recorded beside it, not hashed.
    """

    dataset: str
    annotations_sha256: str
    backbone: str
    backbone_sha256: str
    text_encoder: str
    text_sha256: str
    channels: tuple[int, ...]
    """Channels of C3, C4, C5."""
    strides: tuple[int, ...]
    """Pixels per cell of C3, C4, C5."""
    text_width: int
    fps: float = 5.0
    resolution: int = 224
    max_side: int = 373
    levels: str = "roi"
    """``full``: C3, C4, C5 maps. ``roi``: C5 maps and RoI-aligned C3/C4 of annotated boxes. ``c5``: C5 maps only."""
    roi_size: int = 4
    dtype: str = "float16"
    """How features are stored: see `quantise`."""
    decode: str = "exact"
    amp: str = "none"
    """What the backbone computed in: see `computing_in`. ``tf32`` and ``bf16`` round more than ``none``."""
    views: int = 1
    """Renditions of every training video: the evaluation geometry, then random resizes and crops. Others have one."""
    views_seed: int = 0
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def fingerprint(self) -> str:
        """Hash of every field, as 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Recipe:
        if stored.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                "this cache has another format",
                expected=f"format version {FORMAT_VERSION}",
                found=stored.get("format_version"),
                hint="extract it again, or use the release of stvg that wrote it",
            )
        try:
            return cls(**{**stored, "channels": tuple(stored["channels"]), "strides": tuple(stored["strides"])})
        except (TypeError, KeyError) as error:
            raise CacheError(
                "the recipe in cache.json cannot be read", found=error, hint="stvg extract again"
            ) from None

    def differing(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """The fields in which two recipes differ, with the value of each."""
        mine, theirs = asdict(self), asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def require_equal(self, other: Recipe, where: object, **facts: str) -> None:
        """Refuse ``other`` (what is asked for now) unless it equals this one (what the cache was made with).

        ``facts``: more lines for the CacheError.
        """
        if differing := self.differing(other):
            raise CacheError(
                f"{where} was made with another recipe",
                **{name: f"cache has {mine!r}, asked for {theirs!r}" for name, (mine, theirs) in differing.items()},
                **facts,
                effect="nothing was read or written",
                hint="use the options the cache was made with, or another --out folder",
            )


def same_sample(a: Sample, b: Sample) -> bool:
    """Whether two samples are equal in everything."""
    mine, theirs = vars(a) | {"boxes": None}, vars(b) | {"boxes": None}
    return mine == theirs and np.array_equal(a.boxes, b.boxes, equal_nan=True)


def has_boxes(boxes: FloatArray) -> NDArray[np.bool_]:
    """Which rows (…, 4) hold a box: all four coordinates finite."""
    return np.asarray(np.isfinite(boxes).all(axis=-1))


@dataclass(frozen=True, eq=False)
class Tube:
    """A prediction for one sample: a span of source frames and boxes in source pixels."""

    sample_id: int | str
    start: float
    """First source frame."""
    end: float
    """One past the last source frame. Predictions of others may be inverted or lie outside the clip; scoring knows."""
    frames: IntArray
    """(n,) ascending source frames that have a box."""
    boxes: FloatArray
    """(n, 4) xyxy."""
    score: float | None = None
    query: int | None = None
