"""In which numbers products are computed. By torch's default a GPU's convolutions run in TF32, which keeps 10 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Convolutions and matrix products of float32 tensors in full float32, or, where asked for, in a GPU's TF32.

    Process-wide while entered; what torch was set to comes back afterwards. A CPU does not know TF32.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextmanager
def computing_in(amp: str, device: torch.device) -> Iterator[None]:
    """``none``: float32. ``tf32``: see `float32_products`. ``bf16``: under autocast, the rest in float32."""
    with float32_products(amp == "tf32"), torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        yield
