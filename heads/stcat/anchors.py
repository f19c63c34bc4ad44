"""Anchor boxes: their prediction from frame tokens, their sine code, and the logit in which decoder layers refine
them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST = 1e-3
"""A coordinate is kept this far from 0 and 1 before its logit is computed."""


def box_sine(boxes: Tensor, d: int) -> Tensor:
    """Sine code of cxcywh boxes (…, 4) in [0, 1] → (…, 2d): d/2 channels per coordinate, in the order [cy | cx | w |
    h]."""
    index = torch.arange(d // 2, device=boxes.device)
    period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / (d // 2))
    cx, cy, w, h = (boxes * (2 * math.pi)).unbind(-1)
    phase = torch.stack([cy, cx, w, h], dim=-1)[..., None] / period  # (…, 4, d / 2)
    return torch.where(index % 2 == 0, phase.sin(), phase.cos()).flatten(-2)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of x; x and 1 - x are clamped to at least `LEAST`."""
    x = x.clamp(0, 1)
    return (x.clamp(min=LEAST) / (1 - x).clamp(min=LEAST)).log()


class Template(nn.Module):
    """Predicts the initial queries of both decoders: an anchor box for every frame, and one content vector per
    video."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.content_proj, self.gamma_proj, self.beta_proj = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.anchor_proj = nn.Linear(d, 4)

    def forward(self, frames: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Frame tokens (B, T, d) and video token (B, d) → logits of the anchors (B, T, 4) and content (B, d)."""
        gamma, beta = self.gamma_proj(video).tanh(), self.beta_proj(video).tanh()
        return self.anchor_proj(gamma[:, None] * frames + beta[:, None]), self.content_proj(video)
