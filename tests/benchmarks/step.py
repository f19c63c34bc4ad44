"""What a training step costs: beside a plain formulation, beside what the machine can multiply, in memory.

    uv run python tests/benchmarks/step.py [--heads TubeDETR] [--only plain rate] [--batch 2] [--rounds 3] [--device cpu]

Steps are whole ones: forward, losses, backward, clipping, AdamW, averaged weights, dropout on. Sizes are the paper's: 100
frames (STCAT 64), d = 256, 6 + 6 layers, 20 tokens. Each way has a process of its own; they take turns, and the median
counts: on a CPU of the processor time, all threads together, which other programs on the machine change least. The plain
way takes samples one by one. Rows are printed as soon as all rounds of a head are over: --heads and --only choose.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
from steps import CELLS, FRAMES, PRESETS, SLOTS, TOKENS, Step, clips, head, one_of, ours, plain, plain_model
from tables import table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stvg.heads.losses import Criterion
from stvg.heads.settings import load_experiment

PLAIN, OURS, AGAIN, PRODUCT = "plain", "ours", "layers computed again", "product"


@dataclass(frozen=True)
class Measured:
    """How to measure."""

    batch: int
    rounds: int
    device: str
    cells: tuple[int, int]

    def words(self) -> list[str]:
        """As arguments."""
        sizes = ["--batch", str(self.batch), "--device", self.device]
        return [*sizes, "--cells", *map(str, self.cells)]


# ---- tables


def plain_table(name: str, how: Measured, recomputed: bool) -> None:
    """Whole steps of a preset; and that both formulations say the same."""
    print(f"{name}: losses without dropout, float32, are at most {apart(name, how):.1e} of a term apart.\n", flush=True)
    kinds = [(PLAIN, 0), (PLAIN, 1), (OURS, 0), (OURS, 1), *([(AGAIN, 0), (AGAIN, 1)] if recomputed else [])]
    found = in_turns([(name, *kind) for kind in kinds], how)
    seconds, size = ([costs[key] for costs in found] for key in ("seconds", "bytes"))
    titles = [f"{name} preset", "", "a sample", "x plain float32", "x plain", "memory, a sample", "x plain float32"]
    rows = []
    for i, (way, amp) in enumerate(kinds):
        ratios = [f"{seconds[0] / seconds[i]:.2f}", f"{seconds[amp] / seconds[i]:.2f}"]
        memory = [f"{size[i] / 1e6:.0f} MB", f"{size[i] / size[0]:.2f}"]
        rows.append([way, "bf16" if amp else "float32", f"{seconds[i]:.3f} s", *ratios, *memory])
    table(titles, rows)


def apart(name: str, how: Measured) -> float:
    """By how much of a term the losses of the two formulations differ at most."""
    preset, (inputs, targets) = PRESETS[name], clips(2, SLOTS.get(name, FRAMES), how.cells)
    criterion = Criterion(load_experiment(preset).loss)
    padding = inputs.frame_padding
    with torch.no_grad():
        there, mine = plain_model(preset).eval(), criterion(head(preset).eval()(inputs, targets), targets, padding)
        theirs = []
        for b, words in enumerate(inputs.tokens):
            alone = one_of(targets, b)
            output = there(inputs.maps[inputs.frame_index[b]].float(), words, alone)
            theirs.append(criterion(output, alone, padding[:1]))
    return max(abs(mine[k] - torch.stack([t[k] for t in theirs]).mean()).item() / abs(mine[k].item()) for k in mine)


def rate_table(name: str, how: Measured) -> None:
    """What the machine multiplies in large square products, and in steps."""
    rows = []
    for amp in (0, 1):
        step, product = in_turns([(name, OURS, amp), (name, PRODUCT, amp)], how)
        rate, best = step["flops"] / step["seconds"], product["flops"] / product["seconds"]
        figures = [f"{step['seconds']:.3f} s", f"{step['flops'] / 1e9:.0f}", f"{rate / 1e9:.0f}", f"{rate / best:.0%}"]
        rows.append([f"{name}, {'bf16' if amp else 'float32'}", *figures])
    table(["step", "a sample", "GFLOP a sample", "GFLOP/s", "of the machine's"], rows)


def scaling_table(how: Measured) -> None:
    """FSM in bf16: over samples in a batch, frames, candidates, and sentences that share a video."""
    rows = []
    for count, frames, queries, sentences in (
        *((b, FRAMES, 5, 1) for b in (1, 2, 4, 8)),
        *((2, t, 5, 1) for t in (25, 50, 200)),
        *((2, FRAMES, n, 1) for n in (1, 10)),
        *((8, FRAMES, 5, s) for s in (2, 4, 8)),
    ):
        inputs, targets = clips(count, frames, how.cells, sentences)
        settings = [f"model.num_queries={queries}", f"model.max_frames={frames}"]
        step = ours("paper", inputs, targets, True, how.device, settings)
        seconds = [once(step, how.device) for _ in range(how.rounds + 1)][1:]
        rows.append([*map(str, (count, frames, queries, sentences)), f"{statistics.median(seconds) / count:.3f} s"])
    table(["samples", "frames", "candidates", "sentences a video", "a sample"], rows)


# ---- ways that take turns


def in_turns(ways: list[tuple[str, str, int]], how: Measured) -> list[dict[str, float]]:
    """What a sample of every way (head, way, bf16 or not) costs: ``seconds``, ``bytes`` beyond model, optimiser and data,
    ``flops``."""
    found, workers = [], []
    for way in ways:
        words = [sys.executable, __file__, *how.words(), "--worker", *map(str, way)]
        workers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        found.append(answer(workers[-1]))
    times: list[list[float]] = [[answer(worker, "go\n")["seconds"] for worker in workers] for _ in range(how.rounds)]
    for worker in workers:
        worker.communicate()
    return [
        dict(costs, seconds=statistics.median(of)) for costs, of in zip(found, zip(*times, strict=True), strict=True)
    ]


def answer(worker: subprocess.Popen[str], asked: str = "") -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(asked)
    worker.stdin.flush()
    costs: dict[str, float] = json.loads(worker.stdout.readline())
    return costs


def work(name: str, way: str, amp: bool, how: Measured) -> None:
    """One way's process: says what the first step took beside time, then times a step whenever it is asked to."""
    count = 1 if way in (PLAIN, PRODUCT) else how.batch
    inputs, targets = clips(count, SLOTS.get(name, FRAMES), how.cells)
    if way == PRODUCT:
        step = product(torch.bfloat16 if amp else torch.float32, how.device)
    elif way == PLAIN:
        step = plain(PRESETS[name], inputs, targets, amp, how.device)
    else:
        step = ours(PRESETS[name], inputs, targets, amp, how.device, recompute=way == AGAIN)
    print(json.dumps({k: v / count for k, v in first(step, how.device).items()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": once(step, how.device) / count}), flush=True)


def first(step: Step, device: str) -> dict[str, float]:
    """Bytes a step needs beyond model, optimiser and data, and its arithmetic."""
    before = status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated()
    with FlopCounterMode(display=False) as counter:
        assert math.isfinite(step().flatten()[0].item())
    peak = status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
    return {"bytes": peak - before, "flops": counter.get_total_flops()}


def product(dtype: torch.dtype, device: str) -> Step:
    """Twenty products of (4096, 2048) and (2048, 2048)."""
    a, b = torch.randn(4096, 2048, dtype=dtype, device=device), torch.randn(2048, 2048, dtype=dtype, device=device)
    out = torch.empty(4096, 2048, dtype=dtype, device=device)

    def products() -> Tensor:
        for _ in range(20):
            torch.mm(a, b, out=out)
        return out

    return products


def status(name: str) -> int:
    """Bytes this process has (VmRSS) or had at its peak (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def once(step: Step, device: str) -> float:
    """Seconds: of processor time, all threads together, on a CPU; of the clock on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parts = ["plain", "recomputed", "rate", "scaling"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", type=int, nargs=2, default=CELLS, help="rows and columns of C5")
    parser.add_argument("--heads", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--only", nargs="+", choices=parts, default=["plain", "rate"], help="recomputed: with plain")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    how = Measured(chosen.batch, chosen.rounds, chosen.device, tuple(chosen.cells))
    if chosen.worker:
        name, way, amp = chosen.worker
        work(name, way, bool(int(amp)), how)
        return
    where = torch.cuda.get_device_name() if how.device != "cpu" else f"{torch.get_num_threads()} threads"
    print(f"{how.cells[0]} x {how.cells[1]} cells, {TOKENS} tokens, {how.batch} samples at once", end="")
    print(f", {how.rounds} rounds; {where}, torch {torch.__version__}\n", flush=True)
    for name in chosen.heads:
        if "plain" in chosen.only:
            plain_table(name, how, "recomputed" in chosen.only)
        if "rate" in chosen.only:
            rate_table(name, how)
    if "scaling" in chosen.only:
        scaling_table(how)


if __name__ == "__main__":
    main()
