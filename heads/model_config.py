"""The size of a head and the paper's ablations of it, and what it must know of the features it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..cache.schema import Level
from ..config import nearest
from ..errors import UsageError
from .fusion import FusionConfig

GROUPS = 32
"""Of the group norm after the projections of further levels."""


@dataclass(frozen=True)
class ModelConfig:
    """Size of the head and the paper's ablations. Defaults are the paper's."""

    d: int = 256
    heads: int = 8
    ffn: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    span_dropout: float = 0.5
    max_frames: int = 100
    num_queries: int = 5
    qmm: bool = True
    """Query matching: several candidate tubes, scored and matched. Off: one query, no second stream (table V)."""
    shared_decoder: bool = True
    """Both streams use the same decoder layers (table VIII)."""
    memory_level: str | None = None
    """The level the head remembers and decodes from.  [the last]"""
    region_levels: tuple[str, ...] | None = None
    """The levels that the second stream also cuts regions of the target from.  [all others that the cache keeps]"""
    standardise: bool = False
    """Take each channel's mean off the features and divide by its spread, both of the training videos as the cache recorded
    them. Levels and encoders differ in scale. The paper's heads read features as they are."""
    proj_norm: str = "groupnorm"
    """After the projections of these levels: ``groupnorm`` or ``none``."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    stride: int = 1
    """Every stride-th slot goes through the space-text encoder; the slots up to the next one repeat its memory."""
    fast: bool = False
    """Only with a stride: repeated memory is corrected by what every frame shows itself (TubeDETR's fast branch)."""

    def __post_init__(self) -> None:
        if self.proj_norm not in ("groupnorm", "none"):
            raise ValueError(f"proj_norm is {self.proj_norm!r}, expected groupnorm or none")
        for name in ("d", "heads", "ffn", "decoder_layers", "max_frames", "num_queries", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers is {self.encoder_layers}, expected at least 0")
        for name in ("dropout", "span_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share of at least 0 and less than 1")
        self._check_width()
        self._check_stride()

    def _check_width(self) -> None:
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} must be a multiple of heads = {self.heads}")
        if self.d % 4:
            raise ValueError(f"d = {self.d} must be a multiple of 4: sine and cosine of rows and of columns")
        normed = self.qmm and self.region_levels != () and self.proj_norm == "groupnorm"
        if normed and self.d % GROUPS:
            raise ValueError(
                f"d = {self.d} must be a multiple of {GROUPS}, the groups of the norm of further levels; without that "
                "norm (proj_norm=none), or without those levels (region_levels=[]), it need not be"
            )

    def _check_stride(self) -> None:
        if self.stride > 1 and (self.fusion.frame_level or self.fusion.video_level):
            raise ValueError(
                f"stride {self.stride} encodes some frames only, fusion matches all of them: set fusion.frame_level and "
                "fusion.video_level to false, or stride to 1"
            )
        if self.fast and self.stride == 1:
            raise ValueError("fast corrects memory that is repeated between frames; with stride 1 none is")

    def levels(self, given: Sequence[Level]) -> tuple[Level, tuple[Level, ...]]:
        """Of the levels that are given, finest first: the one that is remembered, those that regions are cut from as well.

        Raises UsageError for a name that is not among them.
        """
        named = {level.name: level for level in given}
        memory = self._named(self.memory_level, named) if self.memory_level else given[-1]
        if not self.qmm:
            return memory, ()
        if self.region_levels is None:
            return memory, tuple(level for level in given if level != memory)
        return memory, tuple(k for name in self.region_levels if (k := self._named(name, named)) != memory)

    @staticmethod
    def _named(name: str, levels: Mapping[str, Level]) -> Level:
        if name not in levels:
            raise UsageError(
                f"the features have no level {name!r}", found=", ".join(levels), hint=nearest(name, levels)
            )
        return levels[name]


@dataclass(frozen=True)
class FeatureFacts:
    """What the head must know of the cached features it reads."""

    levels: tuple[Level, ...]
    """Those it can be given, finest first."""
    text_width: int
    roi_size: int = 4
