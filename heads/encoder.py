"""The space-text encoder: self-attention over the visual tokens and words of each frame, without attention across
frames."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import Attention, hidden
from .feed_forward import feed_forward
from .layers import ResidualNorm, Stack


class EncoderLayer(nn.Module):
    """A post-norm transformer layer. Positions are added to queries and keys only. Parameter names are the published
    ones."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = ResidualNorm(d, dropout), ResidualNorm(d, dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, position: Tensor, hides: Tensor) -> Tensor:
        """x (R, L, d), position (R / n, L, d), shared by n consecutive rows, ``hides`` (R, 1, 1, L) → (R, L, d)."""
        together = x.unflatten(0, (len(position), -1))
        x = self.norm1(x, self.self_attn.within(together, position[:, None], hides))
        return self.norm2(x, feed_forward(x, self.linear1, self.linear2, self.dropout, self.training))


class Encoder(Stack):
    """A stack of encoder layers without a final norm."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d, heads, ffn, dropout) for _ in range(layers))

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """x (B, T, L, d); position (B, L, d) and padding (B, L) bool, shared by all frames of a clip → (B, T, L, d)."""
        B, T = x.shape[:2]
        rows, position = x.flatten(0, 1), position.to(self.product_type)
        hides = hidden(padding.repeat_interleave(T, 0, output_size=B * T), self.product_type)
        for layer in self.layers:
            rows = self.run(layer, rows, position, hides)
        return rows.unflatten(0, (B, T))
