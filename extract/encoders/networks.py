"""Helpers for networks of any library: reproducible random weights, and the picture sizes that a network accepts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ...errors import EncoderError
from ...weights import random_values

SPREAD = 0.02
"""Standard deviation of random position embeddings, special tokens and tables, as transformers are initialised."""
NORM_AT_END = 0.25
"""Gain of norms that libraries initialise to zero. With zero, features would not depend on the block's weights."""

Network = TypeVar("Network", bound=nn.Module)


def quietly(make: Callable[[], Network]) -> Network:
    """Build a network without changing the caller's random state. Its own random weights are replaced later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Fill in seeded weights: layers preserve variance, embeddings are small, biases are zero, norms are unchanged."""
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or value.numel() == 0:
            continue
        if value.dim() == 1:
            if name.endswith("bias"):  # libraries draw random biases for convolutions
                value.zero_()
            elif name.endswith("weight") and not value.any():
                value.fill_(NORM_AT_END)
        elif name.endswith("weight") and "embedding" not in name and value.dim() != 3:
            gain = 2 if value.dim() > 3 else 1  # the activation after a convolution halves the variance
            value.copy_(random_values(value.shape, seed, name) * math.sqrt(gain / value[0].numel()))
        else:
            value.copy_(random_values(value.shape, seed, name) * SPREAD)


@torch.inference_mode()
def multiple_of(features: Any, name: str, patch: int) -> int:
    """The multiple to which sides are padded, so that maps have ⌈H / stride⌉ rows: 1, patch size or coarsest stride."""
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
