"""One training step divided between the ranks of torchrun: samples a second, and what passing gradients on costs.

    uv run python tests/benchmarks/ranks.py [--device cpu] [--ranks 1 2] [--threads 2] [--amp none|bf16] [--batch 4]

The paper's head over a cache of 7 x 10 x 2048 maps and 100 slots a clip, without C3 and C4. On a CPU the ranks share
--threads between them. The first step does not count. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inference import WINDOW, make
from tables import table


def seconds_a_step(folder: Path, ranks: int, chosen: argparse.Namespace) -> float:
    """Median over an epoch's steps but the first."""
    settings = ["model.region_levels=[]", f"train.batch_size={chosen.batch}", "train.epochs=1", "train.log_every=1"]
    settings += [f"train.amp={chosen.amp}"]
    words = ["train-head", "--cache", str(folder / "cache"), "--split", "test", "--val-split", "none"]
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
    return statistics.median(line["seconds"] for line in lines[1:] if "seconds" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        found = {ranks: seconds_a_step(folder, ranks, chosen) for ranks in chosen.ranks}
    first = found[chosen.ranks[0]]
    table(
        ["ranks", "a step", "samples/s", f"x {chosen.ranks[0]} rank"],
        [[n, f"{t:.2f} s", f"{chosen.batch / t:.2f}", f"{first / t:.2f}"] for n, t in found.items()],
    )


if __name__ == "__main__":
    main()
