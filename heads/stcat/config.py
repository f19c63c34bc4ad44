"""The size of an STCAT head. Defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class STCATConfig:
    """Size of the head, and how many frames a clip has. Defaults are the published ones for VidSTG."""

    d: int = 256
    heads: int = 8
    ffn: int = 2048
    encoder_layers: int = 6
    """Of the spatial and of the temporal stack each."""
    decoder_layers: int = 6
    """Of the spatial and of the temporal decoder each."""
    dropout: float = 0.1
    span_dropout: float = 0.3
    """In the start and end head and in the actionness head, logits included."""
    max_frames: int = 64
    """Slots of a clip in training, and of a pass at inference."""
    passes: int = 2
    """Clips that a longer one is divided into at inference: every ``passes``-th slot is one."""

    def __post_init__(self) -> None:
        for name in ("d", "heads", "ffn", "encoder_layers", "decoder_layers", "max_frames", "passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("dropout", "span_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share of at least 0 and less than 1")
        if self.d % self.heads:
            raise ValueError(f"d = {self.d} must be a multiple of heads = {self.heads}")
        if self.d % 4:
            raise ValueError(f"d = {self.d} must be a multiple of 4: sine and cosine of rows and of columns")
