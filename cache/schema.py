"""Data types that all packages share: Video, Sample, Tube; Level, Visual, Text and Recipe.

Readers and writers use source frames (half-open spans) and source pixels (xyxy boxes). Batches and heads use slots and
cxcywh fractions. `sampling` converts frames and slots; `view` converts boxes.
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
"""Form of a level's name. It has no underscores, because array names join their parts with underscores."""

Span = tuple[int, int]
"""Half-open range of source frames: (first, last + 1)."""


@dataclass(frozen=True)
class Video:
    """A video file, as the annotation describes it."""

    video_id: str
    path: str
    """Path below the dataset's video folder. HC-STVG gives only the file name, which is then searched for."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fps: float
    """Source frames per second. For HC-STVG it is frame_count / 20, as in published work."""
    frame_count: int


@dataclass(frozen=True, eq=False)
class Sample:
    """A sentence about a video, with its annotation: 0-based source frames, half-open spans, xyxy boxes in pixels.

    ``boxes``: (moment length, 4) float64, one row per source frame of the moment; NaN where the target has no box.
    """

    sample_id: int | str
    """VidSTG: the number of the sentence within the annotation file. HC-STVG: the file name. Own data: as given."""
    video: Video
    sentence: str
    qtype: str
    """Group for averaged metrics: 'declarative', 'interrogative', or 'all' for datasets with a single kind."""
    split: str
    segment: Span
    """The part of the video that is the model's input."""
    moment: Span
    """The time span of the described event. It may end one frame after the segment (VidSTG); it is never clipped."""
    boxes: FloatArray = field(repr=False)
    target_id: str = "0"
    """Name of the object within its video. Samples of one object share their boxes and stored RoI features."""
    baseline_shift: int = 0
    """Number of frames by which the public evaluator places the moment too late. For HC-STVG it is 1, because the
    evaluator reads the 1-based ``st_frame`` as 0-based. Only the ``tubedetr`` protocol uses it: published numbers have
    this shift."""

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
    """One feature map of an encoder, for frames of H x W pixels: (channels, ⌈H / stride⌉, ⌈W / stride⌉)."""

    name: str
    channels: int
    stride: int
    """Pixels per cell."""

    @property
    def encoder(self) -> str:
        """Name of its encoder among several: the name's part before the last hyphen; empty for a single encoder."""
        return self.name.rpartition("-")[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.channels} channels, stride {self.stride})"

    def cells(self, view: View) -> tuple[int, int]:
        """Rows and columns of its maps in a view."""
        return -(-view.height // self.stride), -(-view.width // self.stride)


@dataclass(frozen=True)
class Visual:
    """The properties of a visual encoder that determine its features."""

    name: str
    sha256: str
    """Hash of its weights, and of a plugin's source."""
    levels: tuple[Level, ...]
    """Its feature maps, finest first. For several encoders: the levels of the first, then those of the next."""
    mean: tuple[float, float, float]
    """Mean per colour channel, for pixels in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation per colour channel, for pixels in [0, 1]."""
    multiple: int = 1
    """Pictures are padded so that both sides are multiples of this number of pixels."""
    window: int = 1
    """Number of grid frames that the encoder reads for the features of one frame."""

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
                expected="at least one level; names of 1 to 64 letters, digits, hyphens, that differ in more than case",
                found=", ".join(map(repr, names)) or "none",
            )
        if any(level.channels < 1 or level.stride < 1 for level in self.levels):
            raise UsageError(
                f"the levels of encoder {self.name} cannot be stored",
                expected="at least one channel and one pixel per cell",
                found=", ".join(map(str, self.levels)),
            )


@dataclass(frozen=True)
class Text:
    """The properties of a text encoder that determine its features."""

    name: str
    sha256: str
    """Hash of its weights and its tokenizer."""
    width: int
    """Number of features per token."""


@dataclass(frozen=True)
class Recipe:
    """All settings that change a stored feature. Caches with equal fingerprints hold equal features.

    The header records library versions separately; they are not part of the fingerprint.
    """

    visual: Visual
    text: Text
    fps: float = 5.0
    resolution: int = 224
    max_side: int = 373
    keep: str = "roi"
    """The form in which levels before an encoder's last are kept: ``roi`` as RoI-aligned regions of annotated boxes,
    ``full`` as maps, ``last`` not at all. The last level is kept as maps. ``none`` keeps no features, also none of
    sentences: see `bare`."""
    roi_size: int = 4
    dtype: str = "float16"
    """Stored type of features: see `quantise`."""
    decode: str = "exact"
    amp: str = "none"
    """Numeric precision of the visual encoder: see `computing_in`. ``tf32`` and ``bf16`` round more than ``none``."""
    views: int = 1
    """Number of stored views per video: the evaluation view, then random resizes and crops."""
    views_seed: int = 0
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def fingerprint(self) -> str:
        """Hash of every field, as 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def bare(self) -> bool:
        """Whether no features are kept: the cache holds only the recipe and annotations, for training on pixels."""
        return self.keep == "none"

    @property
    def kept(self) -> dict[str, str]:
        """The form in which every level of the visual encoder is kept, in order: ``maps``, ``regions`` or ``none``."""
        last = () if self.bare else self.visual.last_levels
        return {k.name: "maps" if k in last else KEPT[self.keep] for k in self.visual.levels}

    @property
    def keeps_regions(self) -> bool:
        """Whether any level is kept as regions of annotated boxes."""
        return "regions" in self.kept.values()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that are kept in any form, finest first."""
        kept = self.kept
        return tuple(level for level in self.visual.levels if kept[level.name] != "none")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Recipe:
        """Raises CacheError for another format version and for invalid fields."""
        if stored.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                "this cache has another format",
                expected=f"format version {FORMAT_VERSION}",
                found=stored.get("format_version"),
                effect="nothing was read or written",
                hint="make a new cache: stvg extract --out ANOTHER_FOLDER, with the options this cache was made with",
            )
        try:
            return build(cls, stored, "the recipe")
        except UsageError as error:
            raise CacheError(
                "the recipe in cache.json cannot be read", found=error, hint="stvg extract again"
            ) from None

    def differing(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """The differing fields of two recipes, with both values.

        Fields of encoders have names like ``visual.sha256``.
        """
        mine, theirs = self._flat(), other._flat()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def _flat(self) -> dict[str, Any]:
        """Every field by its dotted name."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            nested = vars(value) if isinstance(value, Visual | Text) else {}
            found |= {f"{name}.{k}": v for k, v in nested.items()} or {name: value}
        return {**found, "visual.levels": ", ".join(map(str, self.visual.levels))}

    def require_equal(self, other: Recipe, where: object, **facts: str) -> None:
        """Raise CacheError unless ``other``, the requested recipe, equals this one, the recipe of the cache.

        ``facts``: additional lines of the CacheError.
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
    """Whether two samples are equal in all fields."""
    mine, theirs = vars(a) | {"boxes": None}, vars(b) | {"boxes": None}
    return mine == theirs and np.array_equal(a.boxes, b.boxes, equal_nan=True)


def has_boxes(boxes: FloatArray) -> NDArray[np.bool_]:
    """Mask (…) of the rows (…, 4) that hold a box: all four coordinates are finite."""
    return np.asarray(np.isfinite(boxes).all(axis=-1))


@dataclass(frozen=True, eq=False)
class Tube:
    """A prediction for one sample: a span of source frames and boxes in source pixels."""

    sample_id: int | str
    start: float
    """First source frame."""
    end: float
    """Last source frame + 1. In imported predictions the span may be inverted or outside the clip; scoring allows
    it."""
    frames: IntArray
    """(n,) ascending source frames with a box."""
    boxes: FloatArray
    """(n, 4) xyxy source pixels."""
    score: float | None = None
    query: int | None = None
