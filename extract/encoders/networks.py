"""What is done with any library's network: seeded random weights, the same everywhere, and which sizes it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ...errors import EncoderError
from ...weights import random_values

SPREAD = 0.02
"""Of positions, marks and tables, as transformers start."""
NORM_AT_END = 0.25
"""Gain of a block's last norm that libraries start at zero: a block that adds nothing would hide the weights before it."""

Network = TypeVar("Network", bound=nn.Module)


def quietly(make: Callable[[], Network]) -> Network:
    """Build a network without moving the caller's random numbers: what it draws is replaced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Weights of layers preserve variance; positions and tables are small; biases are zero; norms stay as they start."""
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or value.numel() == 0:
            continue
        if value.dim() == 1:
            if name.endswith("bias"):  # libraries draw those of convolutions
                value.zero_()
            elif name.endswith("weight") and not value.any():
                value.fill_(NORM_AT_END)
        elif name.endswith("weight") and "embedding" not in name and value.dim() != 3:
            gain = 2 if value.dim() > 3 else 1  # convolutions stand before activations that halve the variance
            value.copy_(random_values(value.shape, seed, name) * math.sqrt(gain / value[0].numel()))
        else:
            value.copy_(random_values(value.shape, seed, name) * SPREAD)


@torch.inference_mode()
def multiple_of(features: Any, name: str, patch: int) -> int:
    """What sides must be a multiple of so that every map has ⌈H / stride⌉ rows: 1, a patch, or the coarsest stride."""
    coarsest = features.levels[-1][2]
    window = getattr(features, "window", 1)
    weight = next(features.parameters())
    why: object = None
    for multiple in sorted({1, patch, coarsest}):
        height, width = (-(-side // multiple) * multiple for side in (2 * coarsest + 1, 4 * coarsest - 1))
        shape = (1, 3, height, width) if window == 1 else (1, window, 3, height, width)
        try:
            maps = features(weight.new_zeros(shape))
        except (RuntimeError, AssertionError, ValueError) as error:
            why = error
            continue
        sizes = [tuple(maps[level].shape[2:]) for level, _, _ in features.levels]
        if sizes == [(-(-height // stride), -(-width // stride)) for _, _, stride in features.levels]:
            return multiple
        why = f"maps of {sizes} for a picture of {height} x {width}"
    raise EncoderError(
        f"{name} does not take pictures of any size",
        expected="maps of ⌈height / stride⌉ rows and ⌈width / stride⌉ columns",
        found=" ".join(str(why).split())[:160],
    )
