"""Which numbers are worked with: autocast's where there is one, float32 at least where sums must not lose anything."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32, for softmax over time and for statistics; wider types stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_type(weight: Tensor) -> torch.dtype:
    """The type in which a product with ``weight`` is computed: autocast's, or the weight's own."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
