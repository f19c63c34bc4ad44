"""Grounding without training: how fast at which batch size, what `auto` chooses, and memory by a video's length.

    uv run python tests/benchmarks/inference.py [--device cpu] [--amp none|bf16] [--only batches lengths]

The paper's head over caches of 7 x 10 x 2048 maps, 100 slots a window; weights and features are random. Every length is
measured in a process of its own; ways take turns, the best of them counts. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from facts import TEXT, VISUAL, write_tokens
from tables import table

from stvg.cache.annotations import AnnotationSet
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.batches.order import inference_batches
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.schema import Recipe, Sample, Video
from stvg.cache.video_unit import video_key
from stvg.cache.view import View
from stvg.heads.infer import predict, read
from stvg.heads.model import Grounder
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training.batch_size import fitting_batch_size
from stvg.heads.training.state import feature_facts

SHAPE, TOKENS, WINDOW, FPS = (7, 10, 2048), 14, 100, 5.0
BLOCK = 100
SHALLOW = ("model.encoder_layers=1", "model.decoder_layers=1")
"""Of the heads that run over an hour: as wide as the paper's, and as large in memory without gradients."""
LENGTHS = {"20 s": 100, "10 minutes": 3_000, "an hour": 18_000}


def make(path: Path, slots: list[int]) -> Cache:
    """A cache with one video and one sentence for each number of slots."""
    recipe = Recipe(VISUAL, TEXT, keep="last")
    samples = []
    for i, T in enumerate(slots):
        video = Video(f"{i:04d}", f"{i:04d}.mp4", 640, 448, FPS, T)
        boxes = np.tile([100.0, 100.0, 300.0, 300.0], (T // 2, 1))
        samples.append(Sample(i, video, f"sentence {i}", "all", "test", (0, T), (0, T // 2), boxes))
    cache = Cache.create(path, recipe, "zarr", {}).annotate(AnnotationSet.of("clips", "json", samples))
    view = View.evaluation(640, 448, 224, 373).to_json()
    block = np.random.default_rng(0).standard_normal((BLOCK, *SHAPE), dtype=np.float32).clip(0).astype(np.float16)
    for i, T in enumerate(slots):
        with cache.store.writer(video_key(f"{i:04d}")) as unit:
            unit.add("c5", (T, *SHAPE), block.dtype)
            for start in range(0, T, BLOCK):
                unit.append("c5", block[: T - start])
            facts = {"fingerprint": recipe.fingerprint, "frames": list(range(T)), "views": [view]}
            unit.commit(facts)
    write_tokens(cache, TOKENS)
    return cache


def opened(path: Path, device: torch.device, settings: Sequence[str] = ()) -> tuple[Grounder, CachedDataset]:
    cache = Cache.open(path)
    head = build_model(load_experiment("paper", settings).model, feature_facts(cache.recipe, "cached"))
    return Grounder(head, None).to(device).eval(), CachedDataset(cache, "test", Sampling(FPS, 1_000_000))


def batch_table(path: Path, clips: int, device: torch.device, amp: bool) -> None:
    """The same clips in batches of every size, in turns."""
    make(path, [WINDOW] * clips)
    model, data = opened(path, device)
    sizes = [2**k for k in range(clips.bit_length())]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        for _ in range(3):
            for size in sizes:
                start = time.perf_counter()
                tubes = list(predict(model, inference_batches(data, size, WINDOW, device), device))
                seconds[size].append(time.perf_counter() - start)
                assert len(tubes) == clips
        start = time.perf_counter()
        chosen = fitting_batch_size(model, data, WINDOW, device)
        took = time.perf_counter() - start
    best = {size: min(found) for size, found in seconds.items()}
    rows = [
        [
            size,
            f"{clips * WINDOW / t:.0f}",
            f"{t / clips:.3f} s",
            f"{best[1] / t:.2f}",
            f"chosen by auto, in {took:.1f} s" if size == chosen else "",
        ]
        for size, t in best.items()
    ]
    table(["clips at once", "slots/s", "a clip", "x one at once", ""], rows)


def length_table(device: str) -> None:
    """Memory beyond what is there before the first batch."""
    rows = []
    for name, slots in LENGTHS.items():
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch) / "cache", [slots])
            found = {}
            for what in ("tubes", "with evidence"):
                command = [sys.executable, __file__, "--one", scratch, what, "--device", device]
                ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[what] = json.loads(ran.stdout)
        rows.append(
            [
                name,
                f"{slots:,}",
                f"{slots / found['tubes']['seconds']:.0f}",
                *(f"{f['bytes'] / 1e6:.0f} MB" for f in found.values()),
            ]
        )
    table(["video", "slots", "slots/s, 1 + 1 layers", "memory for tubes", "with evidence for a report"], rows)


def one(path: Path, what: str, device: torch.device) -> dict[str, float]:
    model, data = opened(path, device, SHALLOW)
    before, start = memory("VmRSS", device), time.perf_counter()
    batches = inference_batches(data, 1, WINDOW, device)
    for _ in predict(model, batches, device) if what == "tubes" else read(model, batches, device):
        pass
    return {"seconds": time.perf_counter() - start, "bytes": memory("VmHWM", device) - before}


def memory(name: str, device: torch.device) -> int:
    """Bytes this process has (VmRSS) or had at its peak (VmHWM); of a GPU's, in its place."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() if name == "VmRSS" else torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=["none", "bf16"], default="none")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=["batches", "lengths"], default=["batches", "lengths"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if chosen.one:
        print(json.dumps(one(Path(chosen.one[0]) / "cache", chosen.one[1], device)))
        return
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{WINDOW} slots a window, 7 x 10 cells, {TOKENS} tokens, amp {chosen.amp}; {where}\n")
    if "batches" in chosen.only:
        with tempfile.TemporaryDirectory() as scratch:
            batch_table(Path(scratch) / "cache", chosen.clips, device, chosen.amp == "bf16")
    if "lengths" in chosen.only:
        length_table(chosen.device)


if __name__ == "__main__":
    main()
