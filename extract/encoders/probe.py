"""What a network does with pictures of any size, found by trying."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import EncoderError


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
