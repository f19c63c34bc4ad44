"""What a training step costs: beside the plain formulation of plain.py, beside what the machine can multiply, in memory.

    uv run python tests/benchmarks/step.py [--batch 4] [--rounds 5] [--device cpu] [--cells 7 12] [--only plain rate …]

Steps are whole ones: forward, losses, backward, clipping, AdamW, averaged weights, dropout on. Sizes are the paper's: 100
frames, d = 256, 6 + 6 layers, 20 tokens. Ways take turns; the median counts. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from facts import LEVELS, TEXT
from plain import PlainTubeDETR
from plain_stcat import PlainSTCAT
from tables import table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stvg.cache.batches.batch import Inputs, Targets
from stvg.heads.checkpoint import EMA
from stvg.heads.cpu import hold_memory
from stvg.heads.losses import Criterion
from stvg.heads.model import Output
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model

FRAMES, CELLS, TOKENS = 100, (7, 12), 20
FACTS = FeatureFacts(LEVELS, TEXT.width)
MOMENT = (30, 70)
PRESETS = {"TubeDETR": "tubedetr", "FSM": "paper", "STCAT": "stcat"}
SLOTS = {"STCAT": 64}
"""Of heads that are made for clips of other lengths."""

Step = Callable[[], Tensor]


# ---- what is trained on


def clips(
    count: int, frames: int = FRAMES, cells: tuple[int, int] = CELLS, sentences: int = 1
) -> tuple[Inputs, Targets]:
    """Samples of one size; every ``sentences`` of them share a video."""
    h, w = cells
    draws = torch.Generator().manual_seed(0)
    videos = count // sentences
    maps = torch.randn(videos * frames, h, w, LEVELS[-1].channels, generator=draws).relu().half()
    index = torch.arange(videos * frames).view(videos, frames).repeat_interleave(sentences, 0)
    first, last = (m * frames // FRAMES for m in MOMENT)
    inside = torch.zeros(count, frames, dtype=torch.bool)
    inside[:, first:last] = True
    centre = 0.3 + 0.4 * torch.rand(count, frames, 2, generator=draws)
    boxes = torch.cat([centre, 0.1 + 0.3 * torch.rand(count, frames, 2, generator=draws)], dim=-1)
    inputs = Inputs(
        maps=maps,
        cell_padding=torch.zeros(len(maps), h, w, dtype=torch.bool),
        frame_index=index,
        frame_padding=torch.zeros(count, frames, dtype=torch.bool),
        tokens=torch.randn(count, TOKENS, FACTS.text_width, generator=draws),
        token_padding=torch.zeros(count, TOKENS, dtype=torch.bool),
    )
    targets = Targets(
        boxes=boxes * inside[..., None],
        in_moment=inside,
        span=torch.tensor([[first, last - 1]] * count),
        size=torch.tensor([[w * 32, h * 32]] * count),
        regions={
            level.name: torch.randn(count * (last - first), 16, level.channels, generator=draws).relu().half()
            for level in LEVELS[:-1]
        },
    )
    return inputs, targets


def one_of(targets: Targets, b: int) -> Targets:
    """The annotation of one sample."""
    return replace(
        targets,
        boxes=targets.boxes[b : b + 1],
        in_moment=targets.in_moment[b : b + 1],
        span=targets.span[b : b + 1],
        size=targets.size[b : b + 1],
        regions={},
    )


# ---- steps


class Trainer:
    """A model with all that a step needs."""

    def __init__(self, model: nn.Module, preset: str, amp: bool, fused: bool) -> None:
        self.model, self.amp = model, amp
        self.criterion = Criterion(load_experiment(preset).loss)
        self.optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=1e-4, fused=fused)
        self.ema = EMA(model, 0.9998)  # type: ignore[arg-type]

    def step(self, forward: Callable[[], Output], targets: Targets) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(targets.boxes.device.type, torch.bfloat16, enabled=self.amp):
            output = forward()
        padding = torch.zeros_like(targets.in_moment)
        total = torch.stack(list(self.criterion(output, targets, padding).values())).sum()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.ema.update(self.model)  # type: ignore[arg-type]
        return total.detach()


def head(preset: str, settings: Sequence[str] = ()) -> nn.Module:
    return build_model(load_experiment(preset, settings).model, FACTS)


def ours(
    preset: str,
    inputs: Inputs,
    targets: Targets,
    amp: bool,
    device: str,
    settings: Sequence[str] = (),
    recompute: bool = False,
) -> Step:
    """One step over the whole batch."""
    hold_memory()
    model = head(preset, settings).to(device).train()
    model.recompute(recompute)
    trainer = Trainer(model, preset, amp, fused=True)
    inputs, targets = inputs.to(torch.device(device)), targets.to(torch.device(device))
    return lambda: trainer.step(lambda: model(inputs, targets), targets)


def plain(preset: str, inputs: Inputs, targets: Targets, amp: bool, device: str) -> Step:
    """A step of its own for every sample; the mean of their losses."""
    model = plain_model(preset).to(device).train()
    trainer = Trainer(model, preset, amp, fused=False)
    inputs, targets = inputs.to(torch.device(device)), targets.to(torch.device(device))

    def step() -> Tensor:
        losses = []
        for b in range(len(inputs.tokens)):
            c5, words = inputs.maps[inputs.frame_index[b]].float(), inputs.tokens[b]
            losses.append(trainer.step(lambda: model(c5, words), one_of(targets, b)))  # noqa: B023  # called at once
        return torch.stack(losses).mean()

    return step


def plain_model(preset: str) -> nn.Module:
    reference = head(preset)
    c, widths = reference.config, (LEVELS[-1].channels, FACTS.text_width)
    model: nn.Module
    if preset == "stcat":
        model = PlainSTCAT(*widths, c.d, c.heads, c.ffn, c.encoder_layers, c.span_dropout)
    else:
        model = PlainTubeDETR(*widths, c.stride, c.d, c.heads, c.ffn, c.encoder_layers)
    model.load_state_dict(reference.state_dict())
    return model


# ---- tables


def plain_table(name: str, count: int, rounds: int, device: str, cells: tuple[int, int], recomputed: bool) -> None:
    """Whole steps of a preset; and that both formulations say the same."""
    preset, (inputs, targets) = PRESETS[name], clips(count, SLOTS.get(name, FRAMES), cells)
    with torch.no_grad():
        there, here = plain_model(preset).eval().to(device), head(preset).eval().to(device)
        moved, wanted = inputs.to(torch.device(device)), targets.to(torch.device(device))
        criterion = Criterion(load_experiment(preset).loss)
        mine = criterion(here(moved, wanted), wanted, moved.frame_padding)
        theirs = [
            criterion(
                there(moved.maps[moved.frame_index[b]].float(), moved.tokens[b]),
                one_of(wanted, b),
                moved.frame_padding[:1],
            )
            for b in range(count)
        ]
    apart = max(abs(mine[k] - torch.stack([t[k] for t in theirs]).mean()).item() / abs(mine[k].item()) for k in mine)
    print(f"Losses without dropout, float32: {len(mine)} terms, at most {apart:.1e} of a term apart.\n")
    ways = [("plain", 0, 1), ("plain", 1, 1), ("ours", 0, 1), ("ours", 1, 1), ("ours", 0, count), ("ours", 1, count)]
    ways += [("recomputed", amp, n) for n in (1, count) for amp in (0, 1)] if recomputed else []
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {way: [] for way in ways}
    for way in ways * 2:  # processes of their own: ours changes how one holds its memory
        words = [
            "--one",
            name,
            *map(str, way),
            "--device",
            device,
            "--rounds",
            str(rounds),
            "--cells",
            *map(str, cells),
        ]
        ran = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
        found[way].append(json.loads(ran.stdout))
    costs = {w: [min(f[k] for f in both) / w[2] for k in ("seconds", "bytes")] for w, both in found.items()}
    seconds, size = costs[ways[0]]
    table(
        [f"{name} preset", "", "samples at once", "a sample", "x plain", "memory, a sample", "x plain"],
        [
            [
                w,
                "bf16" if amp else "float32",
                str(n),
                f"{t:.3f} s",
                f"{seconds / t:.2f}",
                f"{m / 1e6:.0f} MB",
                f"{m / size:.2f}",
            ]
            for (w, amp, n), (t, m) in costs.items()
        ],
    )


def one(
    head: str, way: str, amp: bool, count: int, rounds: int, device: str, cells: tuple[int, int]
) -> dict[str, float]:
    """Median seconds of a step, and the bytes it needs beyond model, optimiser and data."""
    inputs, targets = clips(count, SLOTS.get(head, FRAMES), cells)
    if way == "plain":
        step = plain(PRESETS[head], inputs, targets, amp, device)
    else:
        step = ours(PRESETS[head], inputs, targets, amp, device, recompute=way == "recomputed")
    if device == "cpu":
        before = status("VmRSS")
        step()
        needed = status("VmHWM") - before
    else:
        step()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        needed = torch.cuda.max_memory_allocated() - before
    return {"seconds": race({"": step}, rounds, device)[""], "bytes": needed}


def status(name: str) -> int:
    """Bytes this process has (VmRSS) or had at its peak (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def rate_table(inputs: Inputs, targets: Targets, rounds: int, device: str) -> None:
    """What the machine multiplies in large square products, and in steps."""
    rows = []
    for amp in (False, True):
        best = multiply_rate(torch.bfloat16 if amp else torch.float32, device)
        for name in ("TubeDETR", "FSM"):
            step = ours(PRESETS[name], inputs, targets, amp, device)
            with FlopCounterMode(display=False) as counter:
                step()
            seconds = race({name: step}, rounds, device)[name]
            rate = counter.get_total_flops() / seconds
            cells = [
                f"{seconds / len(inputs.tokens):.3f} s",
                f"{counter.get_total_flops() / len(inputs.tokens) / 1e9:.0f}",
            ]
            rows.append([f"{name}, {'bf16' if amp else 'float32'}", *cells, f"{rate / 1e9:.0f}", f"{rate / best:.0%}"])
    table(["step", "a sample", "GFLOP a sample", "GFLOP/s", "of the machine's"], rows)


def multiply_rate(dtype: torch.dtype, device: str) -> float:
    """Operations per second in products of (4096, 2048) and (2048, 2048), the best of many."""
    a, b = torch.randn(4096, 2048, dtype=dtype, device=device), torch.randn(2048, 2048, dtype=dtype, device=device)
    out = torch.empty(4096, 2048, dtype=dtype, device=device)

    def product() -> Tensor:
        return torch.mm(a, b, out=out)

    return 2 * 4096 * 2048 * 2048 / min(once(product, device) for _ in range(20))


def scaling_table(rounds: int, device: str, cells: tuple[int, int]) -> None:
    """FSM in bf16: over samples in a batch, frames, candidates, and sentences that share a video."""
    rows = []
    for count, frames, queries, sentences in (
        *((b, FRAMES, 5, 1) for b in (1, 2, 4, 8)),
        *((2, t, 5, 1) for t in (25, 50, 200)),
        *((2, FRAMES, n, 1) for n in (1, 10)),
        *((8, FRAMES, 5, s) for s in (2, 4, 8)),
    ):
        inputs, targets = clips(count, frames, cells, sentences)
        settings = [f"model.num_queries={queries}", f"model.max_frames={frames}"]
        seconds = race({"": ours("paper", inputs, targets, True, device, settings)}, rounds, device)[""]
        rows.append([str(v) for v in (count, frames, queries, sentences)] + [f"{seconds / count:.3f} s"])
    table(["samples", "frames", "candidates", "sentences a video", "a sample"], rows)


# ---- measuring and printing


def race(ways: dict[str, Step], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each, taking turns after a round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            seconds = once(way, device)
            if turn:
                times[name].append(seconds)
            assert math.isfinite(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


def once(work: Step, device: str) -> float:
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parts = ["plain", "recomputed", "rate", "scaling"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", type=int, nargs=2, default=CELLS, help="rows and columns of C5")
    parser.add_argument("--heads", nargs="+", default=["TubeDETR", "STCAT"], help="beside plain formulations")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    cells = tuple(chosen.cells)
    if chosen.one:
        name, way, amp, count = chosen.one
        print(json.dumps(one(name, way, bool(int(amp)), int(count), chosen.rounds, chosen.device, cells)))
        return
    where = torch.cuda.get_device_name() if chosen.device != "cpu" else f"{torch.get_num_threads()} threads"
    print(f"{FRAMES} frames, {cells[0]} x {cells[1]} cells, {TOKENS} tokens; {where}, torch {torch.__version__}\n")
    inputs, targets = clips(chosen.batch, cells=cells)
    for name in ("TubeDETR", "STCAT"):
        if "plain" in chosen.only and name in chosen.heads:
            plain_table(name, chosen.batch, chosen.rounds, chosen.device, cells, "recomputed" in chosen.only)
    if "rate" in chosen.only:
        rate_table(inputs, targets, chosen.rounds, chosen.device)
    if "scaling" in chosen.only:
        scaling_table(max(1, chosen.rounds // 2), chosen.device, cells)


if __name__ == "__main__":
    main()
