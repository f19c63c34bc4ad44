"""Table III with two seeds: one cell after the other, two at a time, and killed again and again until it is whole.

    uv run python tests/benchmarks/ablation.py --cache stvg-demo/cache [--kills 5] [--seeds 2] [--epochs 2] [--seed 0]

The cache is that of `stvg demo`. A killed run loses its whole process group (SIGKILL) at a random moment and is repeated
until it ends; no finished cell may run again, and its table must equal the undisturbed one's. Prints Markdown tables; exits
with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import table

COSTS = ("seconds",)


def command(chosen: argparse.Namespace, out: Path, devices: str) -> list[str]:
    settings = (f"train.epochs={chosen.epochs}", "train.save_every=10", "train.eval_every=0")
    words = [sys.executable, "-m", "stvg", "ablate", "--cache", str(chosen.cache), "--table", "III", "--preset", "tiny"]
    words += [word for setting in settings for word in ("--set", setting)]
    return [*words, "--seeds", str(chosen.seeds), "--devices", devices, "--out", str(out)]


def whole(chosen: argparse.Namespace, out: Path, devices: str) -> float:
    """Seconds of a run that nothing disturbs."""
    start = time.perf_counter()
    subprocess.run(command(chosen, out, devices), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def broken(
    chosen: argparse.Namespace, out: Path, expected: float, rng: random.Random
) -> tuple[int, list[str], list[int]]:
    """Kill a run at random moments, then let it end. Returns kills, what went wrong, and cells finished at each kill."""
    finished: dict[Path, int] = {}
    problems, at = [], []
    for _ in range(chosen.kills):
        process = subprocess.Popen(command(chosen, out, "cpu"), start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.05, 0.5) * expected)
            break  # it was done before
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        problems += note(out, finished)
        at.append(len(finished))
    subprocess.run(command(chosen, out, "cpu"), check=True, stdout=subprocess.DEVNULL)
    return len(at), problems + note(out, finished), at


def note(out: Path, finished: dict[Path, int]) -> list[str]:
    """Enter what is finished now; say which cells finished before and were written again."""
    now = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}
    again = [str(path.parent.name) for path, when in finished.items() if now.get(path) != when]
    finished |= now
    return [f"cell {name} ran again" for name in again]


def figures(out: Path) -> list[dict[str, str]]:
    """The table without what it cost."""
    with (out / "tables.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in COSTS} for row in csv.DictReader(file)]


def parts(out: Path) -> dict[str, float]:
    """Of all cells together: seconds of training, and the share of these that waited for data."""
    seconds, waited = 0.0, 0.0
    for path in out.glob("cells/*/run/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        timed = [line for line in lines if "wait" in line]
        seconds += sum(line["seconds"] for line in timed)
        waited += sum(line["seconds"] * line["wait"] for line in timed)
    trained = [json.loads(p.read_text(encoding="utf-8"))["seconds"] for p in out.glob("cells/*/result.json")]
    return {"training": float(np.sum(trained)), "wait": waited / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        serial, parallel, killed = (Path(name) / which for which in ("serial", "parallel", "killed"))
        seconds = {"cpu": whole(chosen, serial, "cpu"), "cpu,cpu": whole(chosen, parallel, "cpu,cpu")}
        rows = []
        for out, devices in ((serial, "cpu"), (parallel, "cpu,cpu")):
            found, cells = parts(out), len(list(out.glob("cells/*/result.json")))
            ratio = f"{seconds['cpu'] / seconds[devices]:.2f}"
            rows.append(
                [
                    devices,
                    cells,
                    f"{seconds[devices]:.0f} s",
                    ratio,
                    f"{found['training']:.0f} s",
                    f"{found['wait']:.2%}",
                ]
            )
        table(
            ["--devices", "cells", "wall time", "x one after the other", "training, all cells", "waiting for data"],
            rows,
        )
        kills, problems, at = broken(chosen, killed, seconds["cpu"], random.Random(chosen.seed))
        if figures(killed) != figures(serial):
            problems.append("the table of the killed run is another one")
        ends = ", ".join(map(str, at))
        table(
            ["kills", "cells finished then", "cells that ran again, tables that differ"], [[kills, ends, len(problems)]]
        )
        print("\n".join(problems))
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
