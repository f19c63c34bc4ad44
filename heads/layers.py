"""Building blocks: position codes, MLP, group norm and RoIAlign that ignore padding, linear layers on stored
features."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .dropout import Dropout, dropout
from .precision import at_least_float32, product_type


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after every layer, *including the last*.

    TubeDETR applies dropout to the logits of start and end, and its weights were trained so.
    """

    def __init__(self, sizes: list[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i + 1 < len(self.layers):
                x = x.relu()
            x = self.dropout(x)
        return x


def beside(x: Tensor, *layers: Any, of_rows: Tensor | None = None) -> tuple[Tensor, ...]:
    """The outputs of several linear layers of one width for x, computed in one product. ``of_rows``: the rows to
    return."""
    weight, bias = torch.cat([k.weight for k in layers]), torch.cat([k.bias for k in layers])
    made = F.linear(x, weight, bias)
    return (made if of_rows is None else made.index_select(0, of_rows)).chunk(len(layers), dim=-1)


class Stack(nn.Module):
    """A sequence of transformer layers."""

    recompute = False
    """Gradient checkpointing: store only a layer's inputs, and run it again in the backward pass. Same results bit for
    bit, less memory."""

    @property
    def product_type(self) -> torch.dtype:
        """The type in which its products are computed."""
        return product_type(next(self.parameters()))

    def run(self, layer: nn.Module, *inputs: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class ResidualNorm(nn.LayerNorm):
    """Layer norm of x + dropout(update), computed in float32 or wider."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__(d)
        self.dropout = dropout

    def forward(self, x: Tensor, update: Tensor) -> Tensor:  # type: ignore[override]
        """(…, d) both → (…, d)."""
        p = self.dropout if self.training else 0.0
        if x.device.type == "cpu":
            return super().forward(x + dropout(update, p, training=True))
        with torch.autocast(x.device.type, enabled=False):
            return _ResidualNorm.apply(x, update, self.weight, self.bias, self.eps, p)


class _ResidualNorm(torch.autograd.Function):
    """Stores the sum in the type of the update, and the dropout mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float, p: float) -> Tensor:
        kept, stay = torch.native_dropout(update, p, True) if p else (update, None)
        total = at_least_float32(x + kept)
        out, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        ctx.save_for_backward(total.to(update.dtype), stay, mean, rstd, weight, bias)
        ctx.scale, ctx.of_x = 1 / (1 - p), x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        total, stay, mean, rstd, weight, bias = ctx.saved_tensors
        norm = torch.ops.aten.native_layer_norm_backward
        to_sum, to_weight, to_bias = norm(
            gradient, total.to(gradient.dtype), weight.shape, mean, rstd, weight, bias, [True] * 3
        )
        to_update = to_sum.to(total.dtype)
        if stay is not None:
            to_update = torch.ops.aten.native_dropout_backward(to_update, stay, ctx.scale)
        return to_sum.to(ctx.of_x), to_update, to_weight, to_bias, None, None


class StoredLinear(nn.Linear):
    """A linear layer on cached features of any float type. For the backward pass it stores them in that type, not the
    wider copy that it multiplies: with the backbone's 2,048 channels that copy would be the head's second-largest
    activation."""

    def forward(self, stored: Tensor, standard: Standard | None = None) -> Tensor:
        """Features (…, in) → (…, out). ``standard``: the statistics that standardise the features first."""
        dtype = product_type(self.weight)
        with torch.autocast(stored.device.type, enabled=False):
            weight, bias = (self.weight, self.bias) if standard is None else standard.folded(self.weight, self.bias)
            return _FromStored.apply(stored, weight.to(dtype), bias.to(dtype))


class Standard(nn.Module):
    """Mean and standard deviation of each channel of a level, for standardising its features. Buffers, stored in
    checkpoints."""

    mean: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def set(self, mean: Tensor, spread: Tensor) -> None:
        """Set both statistics, (channels,) each. ``spread``: standard deviations, none of them 0."""
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias that give, on raw features, the result of the given ones on standardised features."""
        scaled = weight / self.spread
        return scaled, bias - scaled @ self.mean


class _FromStored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, stored, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(stored, weight)
        return F.linear(stored.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        stored, weight = ctx.saved_tensors
        rows, cells = gradient.flatten(0, -2), stored.flatten(0, -2).to(weight.dtype)
        to_stored = (gradient @ weight).to(stored.dtype) if ctx.needs_input_grad[0] else None
        return to_stored, rows.t() @ cells, rows.sum(0)


def sine_axis(position: Tensor, extent: Tensor, features: int) -> Tensor:
    """One axis of the 2-D sine code: positions 1…extent (any shape) → (…, features), sin and cos interleaved.

    ``extent`` broadcasts against ``position``: the last valid position, which maps to 2π. Temperature 10,000.
    """
    angle = position / (extent + 1e-6) * (2 * math.pi)
    index = torch.arange(features, device=position.device)
    period = 10000.0 ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
    phase = angle[..., None] / period
    return torch.where(index % 2 == 0, phase.sin(), phase.cos())


def sine_2d(cell_padding: Tensor, d: int) -> Tensor:
    """2-D sine code of every cell: (U, h, w) bool, True = padding → (U, h, w, d), channels [row code | column code]."""
    valid = (~cell_padding).float()
    rows, columns = valid.cumsum(1), valid.cumsum(2)
    return torch.cat(
        [sine_axis(rows, rows[:, -1:, :], d // 2), sine_axis(columns, columns[:, :, -1:], d // 2)],
        dim=-1,
    )


def time_code(length: int, d: int, device: torch.device | None = None) -> Tensor:
    """Sine code of slots 0…length-1: (length, d), te[t, 2i] = sin(t · 10000^(-2i/d)), te[t, 2i+1] = cos(same)."""
    rate = torch.exp(torch.arange(0, d, 2, device=device) * (-math.log(10000.0) / d))
    phase = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm of channels-last maps; the statistics exclude padding cells.

    x (R, L, d), padding (R, L) bool or None. Without padding it equals torch's GroupNorm over the same cells. For the
    backward pass it stores only x.
    """

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled():
            return checkpoint(self.normal, x, padding, use_reentrant=False, preserve_rng_state=False)
        return self.normal(x, padding)

    def normal(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """See the class."""
        grouped = at_least_float32(x).unflatten(-1, (self.num_groups, -1))  # (R, L, groups, d / groups)
        if padding is None:
            variance, mean = torch.var_mean(grouped, dim=(1, 3), keepdim=True, correction=0)
        else:
            keep = (~padding).to(grouped.dtype)[:, :, None, None]
            count = keep.sum(1, keepdim=True) * grouped.shape[-1]
            mean = (grouped * keep).sum((1, 3), keepdim=True) / count
            variance = ((grouped - mean).square() * keep).sum((1, 3), keepdim=True) / count
        normal = ((grouped - mean) * torch.rsqrt(variance + self.eps)).flatten(-2)
        return (normal * self.weight + self.bias).to(x.dtype)


def roi_points(low: Tensor, high: Tensor, bins: int, samples: int) -> Tensor:
    """Sample coordinates of RoIAlign along one axis, half-pixel aligned: box edges (G,) in cells → (G, bins ·
    samples)."""
    steps = (torch.arange(bins * samples, device=low.device) + 0.5) / (bins * samples)
    return low[:, None] - 0.5 + steps * (high - low)[:, None]


def _bracket(points: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells below and above each point, and the weight of the upper one. Points are clamped to the map's valid
    cells."""
    points = points.clamp(min=0)
    points = torch.minimum(points, (extent - 1).to(points.dtype)[:, None])
    below = points.floor()
    above = torch.minimum(below + 1, (extent - 1).to(points.dtype)[:, None])
    return below.long(), above.long(), points - below


def roi_align(maps: Tensor, corners: Tensor, extents: Tensor, bins: int = 4, samples: int = 2) -> Tensor:
    """RoIAlign (aligned, ``samples`` points per bin and axis) that never reads a padding cell.

    maps (G, h, w, d), corners (G, 4) xyxy in cells of that map, extents (G, 2) its valid (rows, columns) → (G, bins²,
    d), bins row by row. Equals torchvision's RoIAlign on an unpadded map for boxes inside it. On padded maps
    torchvision's would interpolate with the padding beyond the right and bottom edges.
    """
    x1, y1, x2, y2 = corners.unbind(-1)
    top, bottom, wy = _bracket(roi_points(y1, y2, bins, samples), extents[:, 0])
    left, right, wx = _bracket(roi_points(x1, x2, bins, samples), extents[:, 1])
    box = torch.arange(len(maps), device=maps.device)[:, None, None]

    def rows(r: Tensor) -> Tensor:
        a, b = maps[box, r[:, :, None], left[:, None]], maps[box, r[:, :, None], right[:, None]]
        return torch.lerp(a, b, wx[:, None, :, None].to(a.dtype))

    sampled = torch.lerp(rows(top), rows(bottom), wy[:, :, None, None].to(maps.dtype))
    return sampled.unflatten(2, (bins, samples)).unflatten(1, (bins, samples)).mean((2, 4)).flatten(1, 2)


def roi_sine(corners: Tensor, extents: Tensor, d: int, bins: int = 4, samples: int = 2) -> Tensor:
    """The 2-D sine code, RoI-aligned like a feature map: (G, bins², d). The code is separable, so each axis is computed
    alone and no map is built.

    corners (G, 4) xyxy in cells, extents (G, 2) valid (rows, columns) of the level's map.
    """
    x1, y1, x2, y2 = corners.unbind(-1)
    codes = []
    for low, high, extent in ((y1, y2, extents[:, 0]), (x1, x2, extents[:, 1])):
        below, above, share = _bracket(roi_points(low, high, bins, samples), extent)
        end = extent[:, None].to(share.dtype)
        a, b = (sine_axis(cell.to(share.dtype) + 1, end, d // 2) for cell in (below, above))
        codes.append(torch.lerp(a, b, share[..., None]).unflatten(1, (bins, samples)).mean(2))  # (G, bins, d / 2)
    rows, columns = codes
    grid = (len(corners), bins, bins, d // 2)
    return torch.cat([rows[:, :, None].expand(grid), columns[:, None].expand(grid)], dim=-1).flatten(1, 2)
