"""What a training step gives a GPU to do, counted without one: operations, bytes kept for the backward pass, waits.

    uv run python tests/benchmarks/launches.py [--batch 16] [--names 20]

One step in bf16 (forward, losses, backward, clipping, AdamW, averaged weights) of each head at the paper's sizes. What
counts as an operation: see counting.py. ``--names`` also prints the most frequent ones. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from counting import counted
from facts import LEVELS, TEXT
from tables import table
from torch import Tensor

from stvg.cache.batches.batch import Batch, Inputs, Targets
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment

FACTS = FeatureFacts(LEVELS, TEXT.width)
CELLS, TOKENS = (7, 12), 20
HEADS = {"FSM": ("paper", 100), "TubeDETR": ("tubedetr", 100), "STCAT": ("stcat", 64)}
"""Preset and slots of a clip."""


def unfilled(*shape: int) -> Tensor:
    """Features that have no values."""
    return torch.empty(shape, dtype=torch.half, device="meta")


def clips(count: int, frames: int, cells: tuple[int, int] = CELLS, features: Callable[..., Tensor] = unfilled) -> Batch:
    """Clips of one size, and ``features`` of any shape."""
    h, w = cells
    inside = torch.zeros(count, frames, dtype=torch.bool)
    inside[:, 3 * frames // 10 : 7 * frames // 10] = True
    regions = {k.name: features(int(inside.sum()), 16, k.channels) for k in LEVELS[:-1]}
    targets = Targets(
        boxes=torch.full((count, frames, 4), 0.4),
        in_moment=inside,
        span=torch.tensor([[3 * frames // 10, 7 * frames // 10 - 1]] * count),
        size=torch.tensor([[w * 32, h * 32]] * count),
        regions=regions,
    )
    inputs = Inputs(
        maps=features(count * frames, h, w, LEVELS[-1].channels),
        cell_padding=torch.zeros(count * frames, h, w, dtype=torch.bool),
        frame_index=torch.arange(count * frames).view(count, frames),
        frame_padding=torch.zeros(count, frames, dtype=torch.bool),
        tokens=features(count, TOKENS, FACTS.text_width),
        token_padding=torch.zeros(count, TOKENS, dtype=torch.bool),
    )
    return Batch([], [""] * count, [], [], inputs, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--names", type=int, default=0)
    chosen = parser.parse_args()
    found = {
        name: counted(load_experiment(preset, ["train.amp=bf16"]), FACTS, clips(chosen.batch, frames))
        for name, (preset, frames) in HEADS.items()
    }
    print(f"{CELLS[0]} x {CELLS[1]} cells, {TOKENS} tokens, {chosen.batch} clips; torch {torch.__version__}\n")
    table(
        ["bf16 step", "slots", "operations", "kept for the backward pass", "waits"],
        [
            [name, str(HEADS[name][1]), f"{c.launched.total():,}", f"{c.kept / 1e9:.1f} GB", str(len(c.waits))]
            for name, c in found.items()
        ],
    )
    for name, c in found.items() if chosen.names else ():
        table([name, "operations"], c.launched.most_common(chosen.names))


if __name__ == "__main__":
    main()
