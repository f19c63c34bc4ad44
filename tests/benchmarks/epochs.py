"""An epoch from the cache beside one end to end, of the same samples: decoding, ResNet-101, RoBERTa-base and a head.

    uv run python tests/benchmarks/epochs.py --tokenizer DIR [--preset tubedetr]
        [--videos 2] [--frames 60] [--batch 2] [--sentences 15] [--amp bf16]

Synthetic videos at 224, encoders with seeded random weights, one epoch each way; the first step of each does not count.
Prints a Markdown table, with the epoch after which extracting has paid.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import table

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import write_vidstg
from stvg.extract.synthetic.scenes import SyntheticConfig
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
WAYS = {
    "cached": (),
    "end to end, encoders frozen": ("train.mode=end-to-end", "train.lr_backbone=0", "train.lr_text=0"),
    "end to end, encoders trained": ("train.mode=end-to-end",),
}


def ask(annotations: Path, sentences: int) -> None:
    """Give every video exactly so many sentences: the first of its own again, in other words."""
    records = json.loads(annotations.read_text(encoding="utf-8"))
    by_video: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_video.setdefault(record["vid"], []).extend(
            {**record, "captions": [caption], "questions": []} for caption in record["captions"]
        )
    kept = []
    for of_video in by_video.values():
        for number in range(sentences):
            record = copy.deepcopy(of_video[number % len(of_video)])
            record["captions"][0]["description"] += " again" * (number // len(of_video))
            kept.append(record)
    annotations.write_text(json.dumps(kept), encoding="utf-8")


def epoch(
    cache: Cache, folder: Path, preset: str, settings: tuple[str, ...], sources: dict[str, object]
) -> dict[str, float]:
    """Seconds of an epoch as its steps after the first suggest, and the share of them spent waiting for data."""
    run = Run(folder, cache, load_experiment(preset, settings), "train", CPU, sources)
    lines: list[dict[str, float]] = []
    train(run, report=lines.append)
    steps = [line for line in lines if "seconds" in line][1:]
    return {
        "seconds": float(np.mean([line["seconds"] for line in steps])) * run.total_steps,
        "wait": float(np.mean([line["wait"] for line in steps])),
        "memory": max(line["memory_bytes"] for line in steps),
        "samples": len(run.dataset),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder of RoBERTa's vocabulary")
    parser.add_argument("--preset", choices=["paper", "tubedetr"], default="paper", help="the head")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=60, help="slots of a clip")
    parser.add_argument("--sentences", type=int, help="of every video  [as many as the synthetic world has]")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--amp", choices=["none", "bf16"], default="none")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = (2 * chosen.frames, 2 * chosen.frames)  # 10 a second, of which every other one is looked at
        write_vidstg(folder / "data", SyntheticConfig(train=chosen.videos, val=0, test=0, frames=frames))
        if chosen.sentences:
            (annotations,) = (folder / "data").rglob("train_annotations.json")
            ask(annotations, chosen.sentences)
        encoders = {"backbone_weights": "random", "text_weights": "random", "tokenizer": chosen.tokenizer}
        start = time.perf_counter()
        report, _ = run_job(
            ExtractJob(
                dataset="vidstg",
                annotations=folder / "data",
                out=folder / "cache",
                sampling=Sampling(5.0, 100),
                device=CPU,
                splits=["train"],
                **encoders,
            )
        )
        report.raise_if_asked()
        extraction = time.perf_counter() - start
        cache = Cache.open(folder / "cache")
        common = (f"train.batch_size={chosen.batch}", "train.epochs=1", "train.log_every=1", f"train.amp={chosen.amp}")
        sources = {**encoders, "videos": folder / "data" / "vidor" / "video"}
        found = {
            name: epoch(cache, folder / str(number), chosen.preset, (*common, *settings), sources)
            for number, (name, settings) in enumerate(WAYS.items())
        }
    samples, base = int(found["cached"]["samples"]), found["cached"]["seconds"]
    print(
        f"{samples} samples of {chosen.frames} frames in {chosen.videos} videos, preset {chosen.preset}, "
        f"batches of {chosen.batch}, {chosen.amp}; "
        f"extraction {extraction:.1f} s for {report.frames} frames, set-up included; {torch.get_num_threads()} threads\n"
    )
    table(
        ["epoch", "a sample", "x cached", "waiting for data", "peak memory", "extraction has paid after"],
        [
            [
                name,
                f"{f['seconds'] / samples:.2f} s",
                f"{f['seconds'] / base:.1f}",
                f"{f['wait']:.1%}",
                f"{f['memory'] / 1e9:.1f} GB",
                "" if name == "cached" else f"{extraction / (f['seconds'] - base):.1f} epochs",
            ]
            for name, f in found.items()
        ],
    )


if __name__ == "__main__":
    main()
