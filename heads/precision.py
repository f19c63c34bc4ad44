"""Numeric types: autocast's type for products, float32 or wider for statistics and softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision converted to float32, for softmax and statistics; wider types are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_type(weight: Tensor) -> torch.dtype:
    """The type in which a product with ``weight`` is computed: autocast's where it is enabled, else the weight's
    own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def half_precision(amp: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 for a forward pass: enabled for ``bf16``, and for ``auto`` on a GPU."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=amp == "bf16" or (amp == "auto" and device.type != "cpu")
    )


def call(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``. Under autocast the weights of all products are converted in one operation, instead of one by
    one at each use. So are their gradients."""
    half = {name: w for name, w in products(module) if w.dtype != product_type(w)}
    if not half:
        return module(*inputs)
    dtype = product_type(next(iter(half.values())))
    return functional_call(module, dict(zip(half, _Rounded.apply(dtype, *half.values()), strict=True)), inputs)


def products(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Weights and biases of a module's products, by name; those of norms and embeddings are excluded."""
    return [
        (f"{name}.{of}" if name else of, weight)
        for name, part in module.named_modules()
        if not isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.Embedding)
        for of, weight in part.named_parameters(recurse=False)
        if of.endswith(("weight", "bias"))
    ]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [w.dtype for w in weights]
        rounded = [torch.empty_like(w, dtype=dtype) for w in weights]
        torch._foreach_copy_(rounded, weights)
        return tuple(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        given = [g for g in gradients if g is not None]
        raised = [torch.empty_like(g, dtype=t) for g, t in zip(gradients, ctx.dtypes, strict=True) if g is not None]
        torch._foreach_copy_(raised, given)
        found = iter(raised)
        return None, *(None if g is None else next(found) for g in gradients)
