"""Where words meet frames: semantic matching at frame level (eqs 1–3) and at video level (eqs 4–6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import attend, merge_heads, split_heads

FUSION_HEADS = 2


@dataclass(frozen=True)
class FusionConfig:
    """The paper's fusion ablations (tables III, IV, IX)."""

    frame_level: bool = True
    """Match tokens of every frame with the words (eqs 1–3)."""
    video_level: bool = True
    """Weigh frames by how well they fit the sentence (eqs 4, 5)."""
    gate: bool = True
    """Gate self- and cross-attended features by each other (eq 2) and the result (eq 3)."""
    scale: bool = True
    """Learned weight of every frame position, tanh(γ) + 1 (eq 5)."""


class GatedMatching(nn.Module):
    """One branch of eqs 1–3: tokens ``x`` look at themselves and at ``y``, and each view gates the other.

    Pre-norm without affine parameters, 2 heads, an output projection per attention: 12 linears with the gate, 8 without.
    """

    def __init__(self, d: int, gate: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.self_key, self.self_value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.cross_key, self.cross_value = nn.Linear(d, d), nn.Linear(d, d)
        self.self_out, self.cross_out, self.out = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.gates = nn.ModuleDict({k: nn.Linear(d, d) for k in ("self", "cross", "score", "value")} if gate else {})

    def forward(self, x: Tensor, y: Tensor, x_padding: Tensor, y_padding: Tensor) -> Tensor:
        """x (R, Lx, d), y (R, Ly, d), paddings (R, L) bool → (R, Lx, d). Padded tokens of x come back unchanged."""
        d = x.shape[-1]
        x_normal, y_normal = F.layer_norm(x, (d,), eps=1e-6), F.layer_norm(y, (d,), eps=1e-6)
        q = split_heads(self.query(x_normal), FUSION_HEADS)

        def look(tokens: Tensor, key: nn.Linear, value: nn.Linear, padding: Tensor, out: nn.Linear) -> Tensor:
            k, v = split_heads(key(tokens), FUSION_HEADS), split_heads(value(tokens), FUSION_HEADS)
            return out(merge_heads(attend(q, k, v, padding, self.dropout if self.training else 0.0)))

        own = look(x_normal, self.self_key, self.self_value, x_padding, self.self_out)  # eq 1a
        other = look(y_normal, self.cross_key, self.cross_value, y_padding, self.cross_out)  # eq 1b
        if self.gates:
            gates = self.gates
            mixed = gates["self"](other).sigmoid() * own + gates["cross"](own).sigmoid() * other  # eq 2
            mixed = gates["score"](mixed).sigmoid() * gates["value"](mixed)  # eq 3
        else:
            mixed = own + other
        fused = x + F.dropout(self.out(mixed), self.dropout, self.training)
        return torch.where(x_padding[..., None], x, fused)


class Fusion(nn.Module):
    """Frame-level and video-level semantic matching; what is switched off passes its input through."""

    def __init__(self, d: int, max_frames: int, config: FusionConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        if config.frame_level:
            self.video_branch = GatedMatching(d, config.gate, dropout)
            self.text_branch = GatedMatching(d, config.gate, dropout)
        if config.video_level and config.scale:
            # Zero, so that all frames weigh the same at the start. (The paper says this of the weight, and can only
            # mean its parameter.)
            self.frame_scale = nn.Parameter(torch.zeros(max_frames))

    def forward(
        self, x: Tensor, y: Tensor, x_padding: Tensor, y_padding: Tensor, frame_padding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, S, d) visual tokens, y (B, M, d) words, paddings (B, T, S), (B, M), (B, T).

        Returns weighted visual tokens (B, T, S, d) and words as seen from every frame (B, T, M, d).
        """
        B, T = frame_padding.shape
        words = y[:, None].expand(-1, T, -1, -1)
        if self.config.frame_level:
            flat_x, flat_y = x.flatten(0, 1), words.flatten(0, 1)
            pad_x, pad_y = x_padding.flatten(0, 1), y_padding[:, None].expand(-1, T, -1).flatten(0, 1)
            x = self.video_branch(flat_x, flat_y, pad_x, pad_y).unflatten(0, (B, T))
            words = self.text_branch(flat_y, flat_x, pad_y, pad_x).unflatten(0, (B, T))
        if self.config.video_level:
            x = x * self.frame_weights(x, words, x_padding, y_padding, frame_padding)[..., None, None]
        return x, words

    def frame_weights(
        self, x: Tensor, words: Tensor, x_padding: Tensor, y_padding: Tensor, frame_padding: Tensor
    ) -> Tensor:
        """Weight of every frame (B, T): similarity of pooled frame and pooled sentence (eq 4) times its scale (eq 5)."""
        frames = masked_mean(x, x_padding)  # (B, T, d)
        sentence = masked_mean(masked_mean(words, y_padding[:, None].expand(words.shape[:3])), frame_padding)  # (B, d)
        weights = (torch.einsum("btd,bd->bt", frames, sentence) / math.sqrt(x.shape[-1])).sigmoid()
        if self.config.scale:
            slots = torch.arange(x.shape[1], device=x.device).clamp(max=len(self.frame_scale) - 1)
            weights = weights * (self.frame_scale.tanh() + 1)[slots]
        return weights


def masked_mean(x: Tensor, padding: Tensor) -> Tensor:
    """Mean over the second-to-last axis of (…, L, d), leaving out padding (…, L); zero where all is padding."""
    keep = (~padding)[..., None].to(x.dtype)
    return (x * keep).sum(-2) / keep.sum(-2).clamp(min=1)
