"""The space-text encoder: every frame's visual tokens and words attend to each other; frames do not meet here."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import Attention
from .dropout import Dropout
from .feed_forward import feed_forward
from .layers import Stack


class EncoderLayer(nn.Module):
    """Post-norm transformer layer; position is added to queries and keys only. Names as in the published weights."""

    def __init__(self, d: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """x, position (R, L, d), padding (R, L) bool → (R, L, d)."""
        x = self.norm1(x + self.dropout(self.self_attn.within(x, position, padding)))
        return self.norm2(x + self.dropout(feed_forward(x, self.linear1, self.linear2, self.dropout.p, self.training)))


class Encoder(Stack):
    """A stack of encoder layers without a final norm."""

    def __init__(self, d: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d, heads, ffn, dropout) for _ in range(layers))

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """x, position (R, L, d), padding (R, L) bool; R = videos · frames → memory (R, L, d)."""
        for layer in self.layers:
            x = self.run(layer, x, position, padding)
        return x
