"""The nouns every room shares: Video, Sample, Tube; Level and Recipe.

At both ends of the pipeline everything is source frames (half-open spans) and source pixels (xyxy boxes); in the middle,
slots and cxcywh fractions. `view` is where boxes change from one to the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import build
from ..errors import CacheError, UsageError
from .kept import KEPT
from .sampling import FloatArray, IntArray, Sampling, sample_frames, slots_in
from .view import View

FORMAT_VERSION = 4
LEVEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
"""Level names become parts of the names of arrays, which put underscores between them."""

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
    boxes: FloatArray = field(repr=False)
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


@dataclass(frozen=True)
class Level:
    """One kind of feature map an encoder gives of a frame of H x W pixels: (channels, ⌈H / stride⌉, ⌈W / stride⌉)."""

    name: str
    channels: int
    stride: int
    """Pixels a cell."""

    @property
    def encoder(self) -> str:
        """Which of several encoders it is of: what stands before the hyphen of its name; empty where there is one."""
        return self.name.rpartition("-")[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, stride {self.stride})"

    def cells(self, view: View) -> tuple[int, int]:
        """Rows and columns of its maps of a view."""
        return -(-view.height // self.stride), -(-view.width // self.stride)


@dataclass(frozen=True)
class Visual:
    """A visual encoder, as far as it decides what a feature is."""

    name: str
    sha256: str
    """Of its weights, and of a plugin's source."""
    levels: tuple[Level, ...]
    """What it gives of a frame, finest first; of several encoders side by side, those of one after those of another."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Pixels in [0, 1] are normalised with these, one a colour."""
    multiple: int = 1
    """Sides of a picture are filled up to a multiple of this many pixels before it is encoded."""
    window: int = 1
    """Frames of the video's grid that it looks at for one frame's features."""

    @property
    def last_levels(self) -> tuple[Level, ...]:
        """The coarsest level of each of its encoders."""
        return tuple({level.encoder: level for level in self.levels}.values())

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if (
            not names
            or len({name.lower() for name in names}) < len(names)
            or not all(LEVEL_NAME.fullmatch(name) for name in names)
        ):
            raise UsageError(
                f"the levels of encoder {self.name} cannot be stored",
                expected="at least one level; names of up to 64 letters, digits and hyphens, that differ in more than case",
                found=", ".join(map(repr, names)) or "none",
            )
        if any(level.channels < 1 or level.stride < 1 for level in self.levels):
            raise UsageError(
                f"the levels of encoder {self.name} cannot be stored",
                expected="at least one channel and one pixel a cell",
                found=", ".join(map(str, self.levels)),
            )


@dataclass(frozen=True)
class Text:
    """A text encoder, as far as it decides what a feature is."""

    name: str
    sha256: str
    """Of its weights and its tokenizer."""
    width: int
    """Numbers a token."""


@dataclass(frozen=True)
class Recipe:
    """Everything that changes a stored feature. Two caches with equal fingerprints hold equal features.

    Library versions are recorded beside it, not hashed.
    """

    visual: Visual
    text: Text
    fps: float = 5.0
    resolution: int = 224
    max_side: int = 373
    keep: str = "roi"
    """Of the levels before an encoder's last: ``roi`` keeps RoI-aligned regions of annotated boxes, ``full`` maps, ``last``
    nothing. Of the last, maps are kept. ``none`` keeps no features at all, nor those of sentences: see `bare`."""
    roi_size: int = 4
    dtype: str = "float16"
    """How features are stored: see `quantise`."""
    decode: str = "exact"
    amp: str = "none"
    """What the visual encoder computed in: see `computing_in`. ``tf32`` and ``bf16`` round more than ``none``."""
    views: int = 1
    """Renditions of every video: the evaluation geometry, then random resizes and crops."""
    views_seed: int = 0
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def fingerprint(self) -> str:
        """Hash of every field, as 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def bare(self) -> bool:
        """Whether no features are kept: such a cache knows its encoders and annotations, for heads that read pixels."""
        return self.keep == "none"

    @property
    def kept(self) -> dict[str, str]:
        """What is kept of every level of the visual encoder, in order: ``maps``, ``regions`` or ``none``."""
        last = () if self.bare else self.visual.last_levels
        return {k.name: "maps" if k in last else KEPT[self.keep] for k in self.visual.levels}

    @property
    def keeps_regions(self) -> bool:
        """Whether regions of annotated boxes are kept of any level."""
        return "regions" in self.kept.values()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of which anything is kept, finest first."""
        kept = self.kept
        return tuple(level for level in self.visual.levels if kept[level.name] != "none")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Recipe:
        """Raises CacheError for another format, and for what is no recipe."""
        if stored.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                "this cache has another format",
                expected=f"format version {FORMAT_VERSION}",
                found=stored.get("format_version"),
                effect="nothing was read or written",
                hint="make a new one: stvg extract --out ANOTHER_FOLDER, with the other options this one was made with",
            )
        try:
            return build(cls, stored, "the recipe")
        except UsageError as error:
            raise CacheError(
                "the recipe in cache.json cannot be read", found=error, hint="stvg extract again"
            ) from None

    def differing(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """The fields in which two recipes differ, with the value of each; those of the encoders as ``visual.sha256``."""
        mine, theirs = self._flat(), other._flat()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def _flat(self) -> dict[str, Any]:
        """Every field under the name people know it by."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            nested = vars(value) if isinstance(value, Visual | Text) else {}
            found |= {f"{name}.{k}": v for k, v in nested.items()} or {name: value}
        return {**found, "visual.levels": ", ".join(map(str, self.visual.levels))}

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
