"""One training step divided between the ranks of torchrun: samples a second, and whether it is the same step.

    uv run python tests/benchmarks/ranks.py [--head fsm] [--set A.B=C …] [--device cpu] [--ranks 1 2] [--threads 2]

A head of the paper's size over a cache of 7 x 10 x 2048 maps and 100 slots a clip, without C3 and C4, and without dropout,
which every rank draws for itself. On a CPU the ranks share --threads between them. The first step does not count for time.
How far other numbers of ranks are from the first is printed, too: the largest relative difference of a step's loss, and the
distance of all gradients, as the optimiser's averages hold them at the end, as a share of their length.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from inference import WINDOW, make
from tables import table

from stvg.heads.checkpoint import load_checkpoint

PRESETS = {"fsm": ("paper", ["model.region_levels=[]"]), "tubedetr": ("tubedetr", []), "stcat": ("stcat", [])}
"""Of every head, and settings beside it."""


@dataclass(frozen=True)
class Ran:
    """A run of some ranks."""

    seconds: float
    """Median over an epoch's steps but the first."""
    losses: list[float]
    """Of every step."""
    gradients: dict[str, torch.Tensor]
    """The optimiser's averages of them after the last step."""


def run(folder: Path, ranks: int, chosen: argparse.Namespace) -> Ran:
    """An epoch of some ranks."""
    preset, settings = PRESETS[chosen.head]
    settings = [*settings, *chosen.settings, f"train.batch_size={chosen.batch}", "train.epochs=1", "train.log_every=1"]
    settings += [f"train.amp={chosen.amp}", "model.dropout=0", "model.span_dropout=0"]
    words = [
        "train-head",
        "--preset",
        preset,
        "--cache",
        str(folder / "cache"),
        "--split",
        "test",
        "--val-split",
        "none",
    ]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--device", chosen.device, "--out", str(folder / f"run{ranks}")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    threads = str(max(1, chosen.threads // ranks))
    subprocess.run(
        [*torchrun, "-m", "stvg", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    lines = [json.loads(line) for line in (folder / f"run{ranks}" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    averages = load_checkpoint(folder / f"run{ranks}" / "last.safetensors", ("optimizer",)).group("optimizer")
    gradients = {name: value for name, value in averages.items() if name.endswith("exp_avg")}
    return Ran(statistics.median(s["seconds"] for s in steps[1:]), [s["loss"] for s in steps], gradients)


def apart(one: Ran, other: Ran) -> tuple[float, float]:
    """The largest relative difference of a loss, and the distance of all gradients as a share of their length."""
    losses = max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))
    differing = [value - other.gradients[name] for name, value in one.gradients.items()]
    distance, length = (torch.stack([t.norm() for t in of]).norm() for of in (differing, one.gradients.values()))
    return losses, float(distance / length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", choices=PRESETS, default="fsm")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--amp", choices=["none", "bf16"], default="none")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step, of all ranks together")
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "cache", [WINDOW] * (chosen.batch * chosen.steps))
        found = {ranks: run(folder, ranks, chosen) for ranks in chosen.ranks}
    first = found[chosen.ranks[0]]
    rows = []
    for ranks, ran in found.items():
        differences = [f"{value:.1g}" for value in apart(first, ran)]
        times = [f"{ran.seconds:.2f} s", f"{chosen.batch / ran.seconds:.2f}", f"{first.seconds / ran.seconds:.2f}"]
        rows.append([f"{chosen.head}, {ranks}", *times, *differences])
    table(["ranks", "a step", "samples/s", f"x {chosen.ranks[0]} rank", "losses apart", "gradients apart"], rows)


if __name__ == "__main__":
    main()
