"""Fusion of words and frames: semantic matching at frame level (eqs 1–3) and at video level (eqs 4–6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import setting
from ..attention import attend, hidden, merge_heads, split_heads
from ..dropout import dropout
from ..layers import beside

FUSION_HEADS = 2


@dataclass(frozen=True)
class FusionConfig:
    """Settings of the fusion: the paper's ablations (tables III, IV, IX)."""

    frame_level: bool = setting(True, source="FSM's paper, table III")
    """Match the visual tokens of every frame with the words (eqs 1–3)."""
    video_level: bool = setting(True, source="FSM's paper, table III")
    """Weight frames by their similarity to the sentence (eqs 4, 5)."""
    gate: bool = setting(True, source="FSM's paper, table IV")
    """Gate self- and cross-attended features by each other (eq 2), and the result (eq 3)."""
    scale: bool = setting(True, source="FSM's paper, table IX")
    """A learned scale of every frame position, tanh(γ) + 1 (eq 5)."""


class GatedMatching(nn.Module):
    """One branch of eqs 1–3: tokens ``x`` attend to themselves and to ``y``, and each result gates the other.

    Pre-norm without affine parameters, 2 heads, an output projection per attention: 12 linear layers with the gates, 8
    without.
    """

    def __init__(self, d: int, gate: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.self_key, self.self_value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.cross_key, self.cross_value = nn.Linear(d, d), nn.Linear(d, d)
        self.self_out, self.cross_out, self.out = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.gates = nn.ModuleDict({k: nn.Linear(d, d) for k in ("self", "cross", "score", "value")} if gate else {})

    def forward(
        self, x: Tensor, y: Tensor, x_padding: Tensor, y_padding: Tensor, x_row: Tensor, y_row: Tensor
    ) -> Tensor:
        """Match row ``x_row[r]`` of x with row ``y_row[r]`` of y: (R, Lx, d). Padded tokens of x are returned
        unchanged.

        x (X, Lx, d) and y (Y, Ly, d) are distinct token sets, paddings (X, Lx) and (Y, Ly) bool, rows (R,) int64. What
        depends on one set only is computed once per set, whatever the number of its pairs.
        """
        d = x.shape[-1]
        x_normal, y_normal = F.layer_norm(x, (d,), eps=1e-6), F.layer_norm(y, (d,), eps=1e-6)
        mixed = self.gated(x_normal, y_normal, x_padding, y_padding, x_row, y_row)
        if self.gates:
            score, value = beside(mixed, self.gates["score"], self.gates["value"])
            mixed = score.sigmoid() * value  # eq 3
        x = x.index_select(0, x_row)
        fused = x + dropout(self.out(mixed), self.dropout, self.training)
        return torch.where(x_padding[x_row][..., None], x, fused)

    def gated(self, x: Tensor, y: Tensor, x_padding: Tensor, y_padding: Tensor, x_row: Tensor, y_row: Tensor) -> Tensor:
        """Eqs 1 and 2 on normalised tokens: self- and cross-attended features, each gated by the other: (R, Lx, d)."""
        p = self.dropout if self.training else 0.0
        query, *own_keys = beside(x, self.query, self.self_key, self.self_value)
        q, k, v = (split_heads(f, FUSION_HEADS) for f in (query, *own_keys))
        own = self.self_out(merge_heads(attend(q, k, v, hidden(x_padding, q.dtype), p))).index_select(0, x_row)  # eq 1a
        q = split_heads(query.index_select(0, x_row), FUSION_HEADS)
        keys = beside(y, self.cross_key, self.cross_value, of_rows=y_row)
        k, v = (split_heads(f, FUSION_HEADS) for f in keys)
        other = self.cross_out(merge_heads(attend(q, k, v, hidden(y_padding[y_row], q.dtype), p)))  # eq 1b
        if not self.gates:
            return own + other
        return self.gates["self"](other).sigmoid() * own + self.gates["cross"](own).sigmoid() * other  # eq 2


class Fusion(nn.Module):
    """Frame-level and video-level semantic matching. A part that is switched off returns its input."""

    def __init__(self, d: int, max_frames: int, config: FusionConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        if config.frame_level:
            self.video_branch = GatedMatching(d, config.gate, dropout)
            self.text_branch = GatedMatching(d, config.gate, dropout)
        if config.video_level and config.scale:
            # Zero: the scale of every frame starts at 1. (The paper says zero of the scale itself; only its parameter
            # can be meant.)
            self.frame_scale = nn.Parameter(torch.zeros(max_frames))

    def forward(
        self,
        visual: Tensor,
        words: Tensor,
        cell_padding: Tensor,
        token_padding: Tensor,
        frame_index: Tensor,
        frame_padding: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """visual (U, S, d) tokens of distinct frames, words (B, M, d), paddings (U, S), (B, M), (B, T).

        ``frame_index`` (B, T): the frame of every slot. Returns weighted visual tokens (B, T, S, d) and, for every
        frame, the words fused with it (B, T, M, d). The third is `similarity`, or None without matching at video level.
        """
        B, T = frame_padding.shape
        frame = frame_index.flatten()
        sentence = torch.arange(B, device=frame.device).repeat_interleave(T)
        if self.config.frame_level:
            x = self.video_branch(visual, words, cell_padding, token_padding, frame, sentence)
            y = self.text_branch(words, visual, token_padding, cell_padding, sentence, frame)
        else:
            x, y = visual.index_select(0, frame), words.index_select(0, sentence)
        x, y = x.unflatten(0, (B, T)), y.unflatten(0, (B, T))
        if not self.config.video_level:
            return x, y, None
        similarity = self.similarity(x, y, cell_padding[frame].unflatten(0, (B, T)), token_padding, frame_padding)
        return x * self.frame_weights(similarity)[..., None, None], y, similarity

    def similarity(
        self, x: Tensor, words: Tensor, x_padding: Tensor, y_padding: Tensor, frame_padding: Tensor
    ) -> Tensor:
        """Logits (B, T): the scaled product of pooled frame and pooled sentence (eq 4)."""
        frames = masked_mean(x, x_padding)  # (B, T, d)
        sentence = masked_mean(masked_mean(words, y_padding[:, None].expand(words.shape[:3])), frame_padding)  # (B, d)
        return torch.einsum("btd,bd->bt", frames, sentence) / math.sqrt(x.shape[-1])

    def frame_weights(self, similarity: Tensor) -> Tensor:
        """Weight of every frame (B, T): the sigmoid of its similarity (eq 4) times the frame's scale (eq 5)."""
        weights, T = similarity.sigmoid(), similarity.shape[1]
        if self.config.scale:
            if len(self.frame_scale) < T:
                raise ValueError(f"{T} slots, but this head has weights for {len(self.frame_scale)}: use windows")
            weights = weights * (self.frame_scale.tanh() + 1)[:T]
        return weights


def masked_mean(x: Tensor, padding: Tensor) -> Tensor:
    """Mean over the second-to-last axis of (…, L, d), without padding (…, L); zero where all is padding."""
    keep = (~padding)[..., None].to(x.dtype)
    return (x * keep).sum(-2) / keep.sum(-2).clamp(min=1)
