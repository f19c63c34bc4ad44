"""Numeric precision of matrix products and convolutions. By torch's default, GPU convolutions use TF32 (10-bit
mantissa)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Compute convolutions and matrix products of float32 tensors in full float32, or in TF32 on a GPU.

    The setting applies to the whole process within the context, and is restored afterwards. CPUs have no TF32.
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
    """Numeric precision within the context. ``none``: float32. ``tf32``: see `float32_products`. ``bf16``: autocast."""
    with float32_products(amp == "tf32"), torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
        yield
