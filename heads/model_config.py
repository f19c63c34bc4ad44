"""The size of a head and its paper's ablations of it, and what it must know of the features it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..cache.sampling import Sampling
from ..cache.schema import Level
from ..config import AT_LEAST_0, AT_LEAST_1, SHARE, Settings, nearest, setting
from ..errors import UsageError
from .fsm.fusion import FusionConfig

GROUPS = 32
"""Of the group norm after the projections of further levels."""


@dataclass(frozen=True)
class HeadConfig(Settings):
    """What every head has: its name in the table of heads, its size, and the frames it is made for."""

    head: str = setting("fsm", source="this project")
    """``fsm``, ``tubedetr`` or ``stcat``: what the other settings of the model and of the losses are of."""
    d: int = setting(256, AT_LEAST_1, "MDETR")
    """Channels of the head: a multiple of ``heads`` and of 4; for FSM with group norm, of 32."""
    heads: int = setting(8, AT_LEAST_1, "MDETR")
    """Of attention."""
    ffn: int = setting(2048, AT_LEAST_1, "MDETR")
    """Channels inside the feed-forward layers."""
    encoder_layers: int = setting(6, AT_LEAST_0, "MDETR")
    """Of the encoder that words and pictures go through together."""
    decoder_layers: int = setting(6, AT_LEAST_1, "MDETR")
    """Of the decoder; every one of them answers, and the last one counts."""
    dropout: float = setting(0.1, SHARE, "MDETR")
    """In encoder, decoder and fusion."""
    span_dropout: float = setting(0.5, SHARE, "TubeDETR")
    """After every layer of the start and end head, its logits included."""
    max_frames: int = setting(100, AT_LEAST_1, "FSM's paper")
    """Slots of a clip; a longer one is thinned, or read in windows of this many."""
    memory_level: str | None = setting(None, source="FSM's code")
    """The level the head remembers and decodes from.  [the last]"""
    standardise: bool = setting(False, source="this project, measured")
    """Take each channel's mean off the features and divide by its spread, both of the training videos as the cache recorded
    them. Levels and encoders differ in scale. The papers' heads read features as they are."""

    @property
    def passes(self) -> int:
        """Clips that one is divided into at inference: every ``passes``-th slot is one."""
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} must be a multiple of heads = {self.heads}")
        if self.d % 4:
            raise ValueError(f"d = {self.d} must be a multiple of 4: sine and cosine of rows and of columns")

    def sampling(self, fps: float, training: bool = False) -> Sampling:
        """Which frames of a cache of ``fps`` frames a second a clip is made of, in training or at inference."""
        return Sampling(fps, self.max_frames)

    def levels(self, given: Sequence[Level]) -> tuple[Level, tuple[Level, ...]]:
        """Of the levels that are given, finest first: the one that is remembered, those that regions are cut from as well.

        Raises UsageError for a name that is not among them.
        """
        return (named(self.memory_level, given) if self.memory_level else given[-1]), ()


def named(name: str, levels: Sequence[Level]) -> Level:
    """The level of a name. Raises UsageError where there is none."""
    found = {level.name: level for level in levels}
    if name not in found:
        raise UsageError(f"the features have no level {name!r}", found=", ".join(found), hint=nearest(name, found))
    return found[name]


@dataclass(frozen=True)
class ModelConfig(HeadConfig):
    """FSM: size of the head and the paper's ablations. Defaults are the paper's."""

    num_queries: int = setting(5, AT_LEAST_1, "FSM's paper, table VI")
    """Candidate tubes."""
    qmm: bool = setting(True, source="FSM's paper, table V")
    """Query matching: several candidate tubes, scored and matched. Off: one query, no second stream (table V)."""
    shared_decoder: bool = setting(True, source="FSM's paper, table VIII")
    """Both streams use the same decoder layers (table VIII)."""
    region_levels: tuple[str, ...] | None = setting(None, source="FSM's code: C3 and C4")
    """The levels that the second stream also cuts regions of the target from.  [all others of that encoder that the cache
    keeps]"""
    proj_norm: str = setting("groupnorm", ("groupnorm", "none"), "FSM's code")
    """What stands after the projections of these levels."""
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        normed = self.qmm and self.region_levels != () and self.proj_norm == "groupnorm"
        if normed and self.d % GROUPS:
            raise ValueError(
                f"d = {self.d} must be a multiple of {GROUPS}, the groups of the norm of further levels; without that "
                "norm (proj_norm=none), or without those levels (region_levels=[]), it need not be"
            )

    def levels(self, given: Sequence[Level]) -> tuple[Level, tuple[Level, ...]]:
        """See `HeadConfig`."""
        memory, _ = super().levels(given)
        if not self.qmm:
            return memory, ()
        if self.region_levels is None:
            return memory, tuple(k for k in given if k != memory and k.encoder == memory.encoder)
        return memory, tuple(k for name in self.region_levels if (k := named(name, given)) != memory)


@dataclass(frozen=True)
class TubeDETRConfig(HeadConfig):
    """TubeDETR, the baseline: one candidate, no fusion. Defaults are those of its runs on VidSTG at 224."""

    head: str = "tubedetr"
    max_frames: int = setting(200, AT_LEAST_1, "TubeDETR")
    """Slots of a clip; a longer one is thinned, or read in windows of this many."""
    stride: int = setting(2, AT_LEAST_1, "TubeDETR at 224; 4 at 352, else 5")
    """Every stride-th slot goes through the space-text encoder; the slots up to the next one repeat its memory."""
    fast: bool = setting(True, source="TubeDETR")
    """Repeated memory is corrected by what every frame shows itself. Only with a stride."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fast and self.stride == 1:
            raise ValueError("fast corrects memory that is repeated between frames; with stride 1 none is")


@dataclass(frozen=True)
class FeatureFacts:
    """What the head must know of the cached features it reads."""

    levels: tuple[Level, ...]
    """Those it can be given, finest first."""
    text_width: int
    roi_size: int = 4
