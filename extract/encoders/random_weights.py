"""Seeded random weights for any network, the same on every machine, to try things out and for tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

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
