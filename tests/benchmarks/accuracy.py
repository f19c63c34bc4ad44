"""What parts of the head, training modes and batches of one video's sentences are worth on synthetic videos, at one budget.

    uv run python tests/benchmarks/accuracy.py --out bench [--seeds 3] [--jobs 2] [--only modes]

Every run is a process of its own with one thread; seeds differ in the head's start and the order of samples, not in
the data. Finished runs are kept in --out, so the command can be interrupted and repeated. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tables import heading, line

from stvg.cache.index import Cache
from stvg.evaluate.demo.run import RESOLUTION, SAMPLING, WORLD
from stvg.evaluate.evaluation import load_head, open_split, overall, score_split, tubes_of
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import write_vidstg
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
TRAIN_VIDEOS, TEST_VIDEOS = 200, 60
BUDGET = ("train.epochs=16", "train.lr_drop=13", "train.batch_size=16", "model.num_queries=5")
NO_FUSION = ("model.fusion.frame_level=false", "model.fusion.video_level=false")
BASELINE = (*NO_FUSION, "model.qmm=false", "model.stride=2", "model.fast=true")
METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
COSTS = ("wall s", "CPU s", "peak MiB")


@dataclass(frozen=True)
class Row:
    """One line of a table: settings on top of the budget, and the cache and mode they train with."""

    table: str
    name: str
    settings: tuple[str, ...] = ()
    levels: str = "roi"
    views: int = 1

    @property
    def cache(self) -> str:
        return f"cache-{self.levels}-{self.views}"


ROWS = [
    Row("variants", "FSM, the paper's head"),
    Row("variants", "TubeDETR preset's head (stride 2, fast branch)", BASELINE),
    Row("variants", "III: neither fusion level", NO_FUSION),
    Row("variants", "III: frame level only", NO_FUSION[1:]),
    Row("variants", "III: video level only", NO_FUSION[:1]),
    Row("variants", "IV: without gate", ("model.fusion.gate=false",)),
    Row("variants", "V: without query matching", ("model.qmm=false",)),
    Row("variants", "VI: 1 query", ("model.num_queries=1",)),
    Row("variants", "VI: 10 queries", ("model.num_queries=10",)),
    Row("variants", "VIII: decoders not shared", ("model.shared_decoder=false",)),
    Row("variants", "IX: without scaling", ("model.fusion.scale=false",)),
    Row("variants", "MRCL off", ("loss.mrcl=0",)),
    Row("variants", "MRCL frame by frame", ("loss.mrcl_form=framewise",)),
    Row("variants", "second stream without C3, C4", ("model.region_levels=[]",)),
    Row("modes", "cached", (), "full"),
    Row("modes", "cached, 4 stored views", (), "full", 4),
    Row("modes", "text live", ("train.mode=text", "train.lr_text=0.001"), "full"),
    Row("modes", "last stage live", ("train.mode=last-stage", "train.lr_backbone=0.0006"), "full"),
    Row(
        "modes",
        "end to end, augmented",
        ("train.mode=end-to-end", "train.lr_text=0.001", "train.lr_backbone=0.0006"),
        "full",
    ),
    *(Row("grouping", f"at most {n} of a video together", (f"train.per_video={n}",)) for n in (1, 2, 4, 8)),
]


def make_videos(folder: Path) -> None:
    """The synthetic videos in ``data``, unless they are there."""
    if not (folder / "data").exists():
        world = replace(WORLD, train=TRAIN_VIDEOS, val=0, test=TEST_VIDEOS, jobs=os.cpu_count() or 1)
        shutil.rmtree(folder / "drawing", ignore_errors=True)
        write_vidstg(folder / "drawing", world)
        (folder / "drawing").rename(folder / "data")


def prepare(folder: Path) -> None:
    """The videos, and one cache for each level of detail."""
    make_videos(folder)
    for row in {row.cache: row for row in ROWS}.values():
        run_job(
            ExtractJob(
                dataset="vidstg",
                annotations=folder / "data",
                out=folder / row.cache,
                sampling=SAMPLING,
                device=CPU,
                splits=["train", "test"],
                backbone="tiny",
                resolution=RESOLUTION,
                levels=row.levels,
                views=row.views,
                batch_frames=64,
            )
        )


def run_one(folder: Path, index: int, seed: int) -> dict[str, float]:
    """Train and score one row with one seed in this process."""
    torch.set_num_threads(1)
    row = ROWS[index]
    cache = Cache.open(folder / row.cache)
    experiment = load_experiment("tiny", [*BUDGET, *row.settings, f"train.seed={seed}"])
    videos = folder / "data/vidor/video"
    run = Run(folder / f"runs/{index}-{seed}", cache, experiment, "train", CPU, {"videos": videos})
    wall, cpu = time.perf_counter(), time.process_time()
    checkpoint = train(run)
    cost = {"wall s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
    cost["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    head = load_head(checkpoint, CPU)
    data = open_split(head, cache, "test", videos)
    scores = overall(score_split(data, tubes_of(head.model, data, 32, CPU), "tubedetr"))
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return {**scores, **cost, "steps": run.total_steps, "parameters": trained}


def missing(folder: Path, seeds: int, only: str | None) -> Iterator[tuple[int, int]]:
    for seed in range(seeds):
        for index, row in enumerate(ROWS):
            if only in (None, row.table) and not (folder / f"{index}-{seed}.json").exists():
                yield index, seed


def start(folder: Path, index: int, seed: int) -> None:
    command = [sys.executable, __file__, "--out", str(folder), "--run", str(index), str(seed)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"seed {seed}: {ROWS[index].name}", file=sys.stderr, flush=True)


def table(folder: Path, name: str) -> str:
    """Mean ± standard deviation over seeds, one line a row; cost columns where the table compares modes."""
    costs = () if name == "variants" else COSTS
    lines = [heading(["", *METRICS, "trained parameters", *costs, "seeds"])]
    for index, row in enumerate(ROWS):
        files = sorted(folder.glob(f"{index}-*.json"))
        if row.table != name or not files:
            continue
        runs = [json.loads(f.read_text()) for f in files]
        cells = [spread([100 * r[m] for r in runs]) for m in METRICS]
        cells += [f"{runs[0]['parameters']:,}", *(spread([r[c] for r in runs], 0) for c in costs), str(len(runs))]
        lines.append(line([row.name, *cells]))
    return "\n".join(lines)


def spread(values: list[float], digits: int = 1) -> str:
    error = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--only", choices=sorted({row.table for row in ROWS}))
    parser.add_argument("--run", type=int, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        index, seed = chosen.run
        result = run_one(chosen.out, index, seed)
        (chosen.out / f"{index}-{seed}.json").write_text(json.dumps(result))
        return
    prepare(chosen.out)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(lambda job: start(chosen.out, *job), missing(chosen.out, chosen.seeds, chosen.only)))
    steps = {json.loads(f.read_text())["steps"] for f in chosen.out.glob("*-*.json")}
    print(
        f"{TRAIN_VIDEOS} training and {TEST_VIDEOS} held-out videos, {sorted(steps)} steps, {chosen.jobs} runs at once\n"
    )
    for name in dict.fromkeys(row.table for row in ROWS):
        if chosen.only in (None, name):
            print(table(chosen.out, name), end="\n\n")


if __name__ == "__main__":
    main()
