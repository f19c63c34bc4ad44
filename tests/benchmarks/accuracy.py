"""What heads, their parts, training modes and batches of one video's sentences are worth on synthetic videos.

    uv run python tests/benchmarks/accuracy.py --out bench [--seeds 3] [--jobs 2] [--only heads modes]

Every run is a process of its own with one thread; seeds differ in the head's start and the order of samples, not in
the data. Heads are compared at as many steps, and at as many processor seconds: the epochs that fit into what FSM's took,
by what an epoch of each head took. Finished runs are kept in --out, so the command can be interrupted and repeated.
Says every run when it ends, then prints Markdown tables.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

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
EPOCHS, BATCH = 16, 16
SHORT = 8
"""Epochs of the tables of heads and of training modes, whose rows take up to four times as long."""
FIVE = ("model.num_queries=5",)
NO_FUSION = ("model.fusion.frame_level=false", "model.fusion.video_level=false")
METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
COSTS = ("wall s", "CPU s", "peak MiB")


@dataclass(frozen=True)
class Row:
    """One line of a table: settings on top of the budget, and the cache and mode they train with."""

    table: str
    name: str
    settings: tuple[str, ...] = FIVE
    levels: str = "roi"
    views: int = 1
    epochs: int = EPOCHS
    as_long: bool = False
    """It trains for as many processor seconds as the first row did, by what its namesake's epochs took."""

    @property
    def cache(self) -> str:
        return f"cache-{self.levels}-{self.views}"


TUBEDETR, STCAT = ("model.head=tubedetr",), ("model.head=stcat",)
LAST_STAGE = (*FIVE, "train.mode=last-stage", "train.lr_backbone=0.0006")
END_TO_END = (*FIVE, "train.mode=end-to-end", "train.lr_text=0.001", "train.lr_backbone=0.0006")
ROWS = [
    Row("heads", "FSM", epochs=SHORT),
    Row("heads", "TubeDETR", TUBEDETR, epochs=SHORT),
    Row("heads", "STCAT", STCAT, epochs=SHORT),
    Row("equal-time", "TubeDETR", TUBEDETR, epochs=SHORT, as_long=True),
    Row("equal-time", "STCAT", STCAT, epochs=SHORT, as_long=True),
    Row("variants", "FSM, the paper's head"),
    Row("variants", "TubeDETR preset's head (stride 2, fast branch)", TUBEDETR),
    Row("variants", "III: neither fusion level", (*FIVE, *NO_FUSION)),
    Row("variants", "III: frame level only", (*FIVE, *NO_FUSION[1:])),
    Row("variants", "III: video level only", (*FIVE, *NO_FUSION[:1])),
    Row("variants", "IV: without gate", (*FIVE, "model.fusion.gate=false")),
    Row("variants", "V: without query matching", (*FIVE, "model.qmm=false")),
    Row("variants", "VI: 1 query", ("model.num_queries=1",)),
    Row("variants", "VI: 10 queries", ("model.num_queries=10",)),
    Row("variants", "VIII: decoders not shared", (*FIVE, "model.shared_decoder=false")),
    Row("variants", "IX: without scaling", (*FIVE, "model.fusion.scale=false")),
    Row("variants", "MRCL off", (*FIVE, "loss.mrcl=0")),
    Row("variants", "MRCL frame by frame", (*FIVE, "loss.mrcl_form=framewise")),
    Row("variants", "second stream without C3, C4", (*FIVE, "model.region_levels=[]")),
    Row("modes", "cached", FIVE, "full", epochs=SHORT),
    Row("modes", "last stage live", LAST_STAGE, "full", epochs=SHORT),
    Row("modes", "end to end, augmented", END_TO_END, "full", epochs=SHORT),
    Row("modes", "text live", (*FIVE, "train.mode=text", "train.lr_text=0.001"), "full", epochs=SHORT),
    Row("modes", "cached, 4 stored views", FIVE, "full", 4, epochs=SHORT),
    *(Row("grouping", f"at most {n} of a video together", (*FIVE, f"train.per_video={n}")) for n in (1, 2, 4, 8)),
]
TABLES = list(dict.fromkeys(row.table for row in ROWS))


def make_videos(folder: Path) -> None:
    """The synthetic videos in ``data``, unless they are there."""
    if not (folder / "data").exists():
        world = replace(WORLD, train=TRAIN_VIDEOS, val=0, test=TEST_VIDEOS, jobs=os.cpu_count() or 1)
        shutil.rmtree(folder / "drawing", ignore_errors=True)
        write_vidstg(folder / "drawing", world)
        (folder / "drawing").rename(folder / "data")


def prepare(folder: Path, tables: Sequence[str]) -> None:
    """The videos, and one cache for each level of detail that some tables need."""
    make_videos(folder)
    for row in {row.cache: row for row in ROWS if row.table in tables}.values():
        report, _ = run_job(
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
        report.raise_if_asked()


def run_one(folder: Path, index: int, seed: int) -> dict[str, float]:
    """Train and score one row with one seed in this process."""
    torch.set_num_threads(1)
    row = ROWS[index]
    cache = Cache.open(folder / row.cache)
    experiment = load_experiment("tiny", [*budget(folder, row), *row.settings, f"train.seed={seed}"])
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
    epochs = experiment.train.epochs
    return {**scores, **cost, "steps": run.total_steps, "epochs": epochs, "parameters": trained}


def budget(folder: Path, row: Row) -> tuple[str, ...]:
    """Settings of a row's budget."""
    epochs = row.epochs
    if row.as_long:
        namesake = next(i for i, other in enumerate(ROWS) if other.name == row.name)
        first, own = (median(r["CPU s"] / r["epochs"] for r in finished(folder, index)) for index in (0, namesake))
        epochs = max(1, round(epochs * first / own))
    return of_epochs(epochs)


def of_epochs(epochs: int) -> tuple[str, ...]:
    """Epochs, before whose last fifth the rates fall, and the size of a batch."""
    return f"train.epochs={epochs}", f"train.lr_drop={max(1, round(0.8 * epochs))}", f"train.batch_size={BATCH}"


def finished(folder: Path, index: int) -> list[dict[str, float]]:
    """What the runs of a row gave, one a seed."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{index}-*.json"))]


def missing(folder: Path, seeds: int, name: str) -> Iterator[tuple[int, int]]:
    for seed in range(seeds):
        for index, row in enumerate(ROWS):
            if row.table == name and not (folder / f"{index}-{seed}.json").exists():
                yield index, seed


def start(folder: Path, index: int, seed: int) -> None:
    command = [sys.executable, __file__, "--out", str(folder), "--run", str(index), str(seed)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    run = json.loads((folder / f"{index}-{seed}.json").read_text())
    scores = ", ".join(f"{m} {100 * run[m]:.1f}" for m in METRICS)
    row = ROWS[index]
    print(f"{row.table}, {row.name}, seed {seed}: {scores}; {run['steps']} steps, {run['CPU s']:.0f} CPU s", flush=True)


def table(folder: Path, name: str) -> str:
    """Mean ± standard deviation over seeds, one line a row; cost columns unless the table compares parts of a head."""
    costs = () if name == "variants" else COSTS
    lines = [heading(["", *METRICS, "trained parameters", *costs, "steps", "seeds"])]
    for index, row in enumerate(ROWS):
        if row.table != name or not (runs := finished(folder, index)):
            continue
        cells = [spread([100 * r[m] for r in runs]) for m in METRICS]
        cells += [f"{runs[0]['parameters']:,}", *(spread([r[c] for r in runs], 0) for c in costs)]
        lines.append(line([row.name, *cells, f"{runs[0]['steps']:,}", str(len(runs))]))
    return "\n".join(lines)


def spread(values: list[float], digits: int = 1) -> str:
    error = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="tables")
    parser.add_argument("--run", type=int, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        index, seed = chosen.run
        result = run_one(chosen.out, index, seed)
        (chosen.out / f"{index}-{seed}.json").write_text(json.dumps(result))
        return
    print(f"{TRAIN_VIDEOS} training and {TEST_VIDEOS} held-out videos, {chosen.jobs} runs at once\n", flush=True)
    prepare(chosen.out, chosen.only)
    for name in chosen.only:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda job: start(chosen.out, *job), missing(chosen.out, chosen.seeds, name)))
    for name in chosen.only:
        print(f"\n{name}\n\n{table(chosen.out, name)}", flush=True)


if __name__ == "__main__":
    main()
