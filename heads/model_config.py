"""Model settings: the size of a head, its paper's ablations, and what it must know of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..cache.sampling import Sampling
from ..cache.schema import Level
from ..config import AT_LEAST_0, AT_LEAST_1, SHARE, Settings, nearest, setting
from ..errors import UsageError
from .fsm.fusion import FusionConfig

GROUPS = 32
"""Number of groups of the group norm after the projections of further levels."""


@dataclass(frozen=True)
class HeadConfig(Settings):
    """Settings of every head: its name in the table of heads, its size, and the frames of its clips."""

    head: str = setting("fsm", source="this project")
    """``fsm``, ``tubedetr`` or ``stcat``. It determines the other settings of model and loss."""
    d: int = setting(256, AT_LEAST_1, "MDETR")
    """Channels of the head: a multiple of ``heads`` and of 4; for FSM with group norm, also of 32."""
    heads: int = setting(8, AT_LEAST_1, "MDETR")
    """Number of attention heads."""
    ffn: int = setting(2048, AT_LEAST_1, "MDETR")
    """Hidden channels of the feed-forward layers."""
    encoder_layers: int = setting(6, AT_LEAST_0, "MDETR")
    """Layers of the encoder that words and visual tokens go through together."""
    decoder_layers: int = setting(6, AT_LEAST_1, "MDETR")
    """Layers of the decoder. The losses apply to each of them; predictions come from the last."""
    dropout: float = setting(0.1, SHARE, "MDETR")
    """Dropout probability in encoder, decoder and fusion."""
    word_dropout: float = setting(0.0, SHARE, "this project, measured")
    """Probability with which all features of a word are zero in training. With few sentences, a head otherwise relies on
    single words."""
    span_dropout: float = setting(0.5, SHARE, "TubeDETR")
    """Dropout probability after every layer of the start and end head, logits included."""
    max_frames: int = setting(100, AT_LEAST_1, "FSM's paper")
    """Maximum number of slots of a clip. A longer clip is subsampled in training, divided into windows at inference."""
    memory_level: str | None = setting(None, source="FSM's code")
    """The level of the features that the memory is made from. [the last]"""
    content_positions: bool = setting(False, source="this project, measured")
    """Add a cell's position code to its content too. The papers' heads add it to queries and keys of attention only, so
    that a head without pretrained weights learns slowly where the attended content was."""
    standardise: bool = setting(False, source="this project, measured")
    """Standardise features: subtract each channel's mean and divide by its standard deviation. Both are those of the
    training videos, recorded in the cache. Levels and encoders differ in scale. The papers' heads do not
    standardise."""

    @property
    def passes(self) -> int:
        """Number of clips that a sample is divided into at inference: each has every ``passes``-th slot."""
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} must be a multiple of heads = {self.heads}")
        if self.d % 4:
            raise ValueError(f"d = {self.d} must be a multiple of 4: sine and cosine of rows and of columns")

    def sampling(self, fps: float, training: bool = False) -> Sampling:
        """The frames of a clip from a cache of ``fps`` frames a second, in training or at inference."""
        return Sampling(fps, self.max_frames)

    def levels(self, given: Sequence[Level]) -> tuple[Level, tuple[Level, ...]]:
        """Select from the given levels, finest first: the memory level, and the levels that regions are also cut from.

        Raises UsageError for a name that is not among them.
        """
        return (named(self.memory_level, given) if self.memory_level else given[-1]), ()


def named(name: str, levels: Sequence[Level]) -> Level:
    """The level with this name. Raises UsageError where there is none."""
    found = {level.name: level for level in levels}
    if name not in found:
        raise UsageError(f"the features have no level {name!r}", found=", ".join(found), hint=nearest(name, found))
    return found[name]


@dataclass(frozen=True)
class ModelConfig(HeadConfig):
    """FSM's settings: size of the head and the paper's ablations. Defaults are the paper's."""

    num_queries: int = setting(5, AT_LEAST_1, "FSM's paper, table VI")
    """Number of candidate tubes."""
    qmm: bool = setting(True, source="FSM's paper, table V")
    """Query matching: several candidate tubes, which are scored and matched. Off: one query, no second stream (table
    V)."""
    cell_map: bool = setting(False, source="this project, measured")
    """Predict a score and a box from every cell, and the head's boxes relative to those of the likely cells;
    ``loss.cells`` and ``loss.cell_boxes`` train them. A head without pretrained weights then needs far fewer samples
    to find the object."""
    frame_decision: bool = setting(False, source="this project, measured")
    """Decide the moment by the frames' similarity to the sentence (eq 4) as well: a span is as probable as its start,
    its end, and every frame to be inside or outside as the span says, relative to the clip's mean similarity. Only
    useful with ``loss.frames``, and with ``model.fusion.video_level``, without which there is no such similarity."""
    shared_decoder: bool = setting(True, source="FSM's paper, table VIII")
    """Both streams use the same decoder layers (table VIII)."""
    region_levels: tuple[str, ...] | None = setting(None, source="FSM's code: C3 and C4")
    """Further levels that the second stream cuts regions of the target from. [all other levels of that encoder that the
    cache keeps]"""
    proj_norm: str = setting("groupnorm", ("groupnorm", "none"), "FSM's code")
    """Normalisation after the projections of these levels."""
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
    """Settings of TubeDETR, the baseline: one candidate, no fusion. Defaults are those of its runs on VidSTG at 224."""

    head: str = "tubedetr"
    max_frames: int = setting(200, AT_LEAST_1, "TubeDETR")
    """Maximum number of slots of a clip. A longer clip is subsampled in training, divided into windows at inference."""
    stride: int = setting(2, AT_LEAST_1, "TubeDETR at 224; 4 at 352, else 5")
    """Every stride-th slot goes through the space-text encoder. The slots up to the next one reuse its memory."""
    fast: bool = setting(True, source="TubeDETR")
    """Correct reused memory with the features of each slot's own frame (the fast branch). Needs a stride above 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fast and self.stride == 1:
            raise ValueError("fast corrects memory that is repeated between frames; with stride 1 none is")


@dataclass(frozen=True)
class FeatureFacts:
    """Properties of the features that a head reads."""

    levels: tuple[Level, ...]
    """The available levels, finest first."""
    text_width: int
    roi_size: int = 4
