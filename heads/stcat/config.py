"""The size of an STCAT head, and which frames its clips are made of. Defaults are the published ones for VidSTG."""

from __future__ import annotations

from dataclasses import dataclass

from ...cache.sampling import Sampling
from ...config import AT_LEAST_1, SHARE, setting
from ..model_config import HeadConfig


@dataclass(frozen=True)
class STCATConfig(HeadConfig):
    """Layers are counted for each of two stacks: spatial and temporal."""

    head: str = "stcat"
    encoder_layers: int = setting(6, AT_LEAST_1, "STCAT")
    """Of the spatial encoder, and as many of the temporal one."""
    span_dropout: float = setting(0.3, SHARE, "STCAT")
    """After every layer of the start and end head, its logits included, and of the actionness head."""
    max_frames: int = setting(64, AT_LEAST_1, "STCAT, VidSTG; 65 for HC-STVG")
    """Slots of a clip in training, and of a pass at inference. They are spread over the whole clip, ends included."""
    passes: int = setting(2, AT_LEAST_1, "STCAT")
    """Clips that one is divided into at inference: every ``passes``-th slot is one."""
    train_every: int = setting(1, AT_LEAST_1, "STCAT, VidSTG")
    """Of the cached frames, training looks at every so many: 1, 2, 4, … (HC-STVG: 2, of a cache of 6.4 a second)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_every & (self.train_every - 1):
            raise ValueError(f"train_every is {self.train_every}, expected 1, 2, 4 or another power of two")

    def sampling(self, fps: float, training: bool = False) -> Sampling:
        """See `HeadConfig`. At inference all passes together see as many times the slots, and all cached frames."""
        if training:
            return Sampling(fps / self.train_every, self.max_frames, ends=True)
        return Sampling(fps, self.max_frames * self.passes, ends=True)
