"""Settings of an STCAT head: its size, and the frames of its clips. Defaults are the published ones for VidSTG."""

from __future__ import annotations

from dataclasses import dataclass

from ...cache.sampling import Sampling
from ...config import AT_LEAST_1, SHARE, setting
from ..model_config import HeadConfig


@dataclass(frozen=True)
class STCATConfig(HeadConfig):
    """Settings of an STCAT head. Encoder and decoder have a spatial and a temporal stack each, of the given number of
    layers."""

    head: str = "stcat"
    encoder_layers: int = setting(6, AT_LEAST_1, "STCAT")
    """Layers of the spatial encoder, and of the temporal one."""
    span_dropout: float = setting(0.3, SHARE, "STCAT")
    """Dropout probability after every layer of the start and end head and of the actionness head, logits included."""
    max_frames: int = setting(64, AT_LEAST_1, "STCAT, VidSTG; 65 for HC-STVG")
    """Slots of a clip in training, and of a pass at inference. They are evenly spread over the clip, first and last
    frame included."""
    passes: int = setting(2, AT_LEAST_1, "STCAT")
    """Number of passes that a clip is divided into at inference: each has every ``passes``-th slot."""
    train_every: int = setting(1, AT_LEAST_1, "STCAT, VidSTG")
    """Training uses every n-th cached frame: 1, 2, 4, … (HC-STVG: 2, of a cache of 6.4 frames a second)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_every & (self.train_every - 1):
            raise ValueError(f"train_every is {self.train_every}, expected 1, 2, 4 or another power of two")

    def sampling(self, fps: float, training: bool = False) -> Sampling:
        """See `HeadConfig`. At inference a clip has ``passes`` times the slots, from all cached frames."""
        if training:
            return Sampling(fps / self.train_every, self.max_frames, ends=True)
        return Sampling(fps, self.max_frames * self.passes, ends=True)
