"""What encoders, heads and training modes reach on real pictures: the same videos for every row, scores with intervals.

    uv run --extra lite python tests/benchmarks/real.py CLIPS --out bench/real [--only pictures] [--row 3] [--seeds 3]

CLIPS: a folder of short annotated clips, see splices.py, which makes the videos. Every row and seed is a process of its own
with one thread, and runs once: interrupt the command freely and repeat it. Rows that ask for the same work share it. Seeds
differ in the head's start and the order of samples; further training has seed 0 only, since an epoch end to end takes
half an hour. Prints Markdown tables; --try scores settings on the split ``val``, which no table shows.

Columns: scores under ``dense``, every frame, in percent, with 95 % intervals over clips of the mean over seeds. *Shuffled*:
the same head asked for another sample's sentence. *No time*: its boxes in every frame of the video. *Below*: how much less
m_vIoU than the starred row has with the same seeds. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from real_rows import COLUMNS, Scored, row_of, values
from real_work import BEST, END_TO_END, ROWS, WORKS, Work
from splices import RATE, splice
from tables import heading

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.upkeep.summary import summarise
from stvg.evaluate.evaluation import Head, load_head, open_split, score_split, shuffle_sentences, tubes_of
from stvg.extract.job import ExtractJob, run_job
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
TRAIN_VIDEOS = 400
TESTED = ("seen", "unseen", "moments")


@dataclass(frozen=True)
class Bench:
    """The folder of all data, caches, runs and results."""

    folder: Path

    def make_videos(self, clips: Path) -> None:
        """The spliced videos in ``data``, unless they are there."""
        made = self.folder / "splicing"
        if not (self.folder / "data").exists():
            shutil.rmtree(made, ignore_errors=True)
            splice(clips, made, TRAIN_VIDEOS, seed=0)
            made.rename(self.folder / "data")

    def result(self, work: Work, seed: int) -> Path:
        return self.folder / f"result-{work.key}-{seed}.json"

    def run(self, work: Work, seed: int) -> Path:
        return self.folder / "runs" / f"{work.key}-{seed}"

    def noted(self, work: Work) -> Path:
        """What `extract` took."""
        return self.folder / f"{work.cache}.json"

    def found(self, work: Work, seed: int) -> dict[str, Any]:
        return dict(json.loads(self.result(work, seed).read_text()))

    def results(self, work: Work) -> dict[int, dict[str, Any]]:
        """Those of all seeds that ran."""
        files = sorted(self.folder.glob(f"result-{work.key}-*.json"))
        return {int(file.stem.rpartition("-")[2]): json.loads(file.read_text()) for file in files}

    def extract(self, work: Work) -> None:
        """Fill the cache of a row, and note its seconds and bytes. One that was interrupted is begun anew."""
        if self.noted(work).exists():
            return
        shutil.rmtree(self.folder / work.cache, ignore_errors=True)
        torch.set_num_threads(1)
        start = time.process_time()
        report, _ = run_job(
            ExtractJob(
                dataset="json",
                annotations=self.folder / "data",
                videos=self.folder / "data/videos",
                out=self.folder / work.cache,
                sampling=Sampling(float(RATE), 100),
                device=CPU,
                splits=[file.stem for file in self.folder.glob("data/annotations/*.json")],
                backbone=work.backbone,
                backbone_weights=work.weights,
                text_encoder=work.text,
                levels=work.levels,
                resolution=work.resolution,
                amp="bf16",
                batch_frames=8,
            )
        )
        report.raise_if_asked()
        stored = summarise(Cache.open(self.folder / work.cache))["bytes"]
        self.noted(work).write_text(json.dumps({"seconds": time.process_time() - start, "bytes": stored}))

    def train(self, work: Work, seed: int, settings: Sequence[str], folder: Path) -> tuple[Run, Path, float]:
        """The run, its checkpoint, and the seconds it took."""
        chosen = [*work.settings, *settings, f"train.seed={seed}"]
        if work.as_long:
            once = self.found(replace(work, as_long=False), seed)["seconds"]
            fit = max(1, round(self.found(END_TO_END, seed)["seconds"] / once))
            chosen += [f"train.epochs={fit}", f"train.lr_drop={fit}"]
        experiment = load_experiment("small", chosen)
        cache = Cache.open(self.folder / work.cache)
        init = self.run(BEST, seed) / "best.safetensors" if work.further else None
        run = Run(folder, cache, experiment, "train", CPU, {"videos": self.folder / "data/videos"}, init)
        start = time.process_time()
        return run, train(run), time.process_time() - start

    def measure(self, work: Work, seed: int, settings: Sequence[str], splits: Sequence[str], name: Path) -> Any:
        """Train and score in this process. A run that was interrupted is begun anew."""
        torch.set_num_threads(1)
        shutil.rmtree(name, ignore_errors=True)
        run, checkpoint, seconds = self.train(work, seed, settings, name)
        trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        found = {"seconds": seconds, "steps": run.total_steps, "parameters": trained}
        return found | self.scores(work, load_head(checkpoint, CPU), splits)

    def scores(self, work: Work, head: Head, splits: Sequence[str]) -> dict[str, Any]:
        """Those of every split that there is, with both controls."""
        found: dict[str, Any] = {}
        for split in (s for s in splits if (self.folder / f"data/annotations/{s}.json").exists()):
            data = open_split(head, Cache.open(self.folder / work.cache), split, self.folder / "data/videos")
            tubes = tubes_of(head.model, data, 16, CPU)
            ends = {s.sample_id: s.video.frame_count for s in data.samples()}
            whole = {k: replace(t, start=0, end=ends[k]) for k, t in tubes.items()}
            found[split] = values(score_split(data, tubes, "dense"))
            found[split]["no time"] = values(score_split(data, whole, "dense"))["vIoU"]
            shuffle_sentences(data, 0)
            found[split]["shuffled"] = values(score_split(data, tubes_of(head.model, data, 16, CPU), "dense"))["vIoU"]
        return found


# ---- tables and processes


def table(bench: Bench, name: str) -> Iterator[str]:
    """One table for every tested split, of the rows that have results."""
    for split in (s for s in TESTED if (bench.folder / f"data/annotations/{s}.json").exists()):
        lines = [f"**{split}**\n", heading(COLUMNS)]
        for row in (r for r in ROWS if r.table == name and bench.results(r.work)):
            cost = json.loads(bench.noted(row.work).read_text())
            mine, best = bench.results(row.work), bench.results(BEST)
            star = [best[seed] for seed in mine if seed in best]
            lines.append(row_of(row.name, split, list(mine.values()), star, cost))
        yield "\n".join(lines)


class Job(NamedTuple):
    """A cache to fill (without a seed), or a head to train and score."""

    work: Work
    seed: int | None


def jobs_of(works: Iterable[Work], seeds: int) -> dict[Job, set[Job]]:
    """The jobs of rows and of all that they need, and for each those to be done before it; the longest chains first."""
    chains = sorted(works, key=lambda work: -len(work.after))
    works = dict.fromkeys(every for work in chains for every in (*work.after, work))
    found: dict[Job, set[Job]] = {}
    caches: dict[str, Job] = {}
    for work in works:
        cache = caches.setdefault(work.cache, Job(work, None))
        found.setdefault(cache, set())
        for seed in range(1 if work.further else seeds):
            found[Job(work, seed)] = {cache, *(Job(before, seed) for before in work.after)}
    return found


def run_all(chosen: argparse.Namespace, bench: Bench, jobs: dict[Job, set[Job]]) -> None:
    """Some jobs at once, the first of those whose needs are done. After a failure or an interruption none is begun."""
    order, rank = TopologicalSorter(jobs), {job: i for i, job in enumerate(jobs)}
    order.prepare()
    ready: list[Job] = []
    running: dict[Future[None], Job] = {}
    with ThreadPoolExecutor(chosen.jobs) as pool:
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=rank.__getitem__)
            while ready and len(running) < chosen.jobs:
                job = ready.pop(0)
                running[pool.submit(do, chosen, bench, job)] = job
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                ended.result()
                order.done(running.pop(ended))


def do(chosen: argparse.Namespace, bench: Bench, job: Job) -> None:
    """Do a job in a process of one thread, unless it was done."""
    work, seed = job
    if (bench.noted(work) if seed is None else bench.result(work, seed)).exists():
        return
    asked = ["--work", str(WORKS.index(work)), *([] if seed is None else ["--seed", str(seed)])]
    command = [sys.executable, __file__, str(chosen.clips), "--out", str(chosen.out), *asked]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    name = next(f"{row.table}, {row.name}, seed {seed}" for row in ROWS if row.work == work)
    print(work.cache if seed is None else name, file=sys.stderr, flush=True)


def try_settings(bench: Bench, work: Work, settings: Sequence[str]) -> None:
    """Scores on the split ``val``, seed 0."""
    bench.extract(work)
    folder = bench.folder / "tried" / "-".join([work.key, *settings]).replace("/", "_")
    scored = Scored([bench.measure(work, 0, settings, ["val"], folder)], "val")
    print(*settings, {k: scored.mean(k) for k in ("tIoU", "vIoU", "gt_vIoU", "shuffled", "no time")})


def one_process(bench: Bench, work: Work, seed: int | None) -> None:
    """What `do` starts."""
    if seed is None:
        bench.extract(work)
    else:
        found = bench.measure(work, seed, [], TESTED, bench.run(work, seed))
        bench.result(work, seed).write_text(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(dict.fromkeys(row.table for row in ROWS)))
    parser.add_argument("--row", type=int, help="one row alone, counted from 0")
    parser.add_argument("--seeds", type=int, default=3, help="0: print what there is")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1 + (os.cpu_count() or 1),
        help="processes at once, one thread each; one more than cores",
    )
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--try", dest="tried", nargs="*", metavar="SETTING", help="score these settings on val, seed 0")
    chosen = parser.parse_args()
    bench = Bench(chosen.out)
    if chosen.work is not None:
        return one_process(bench, WORKS[chosen.work], chosen.seed)
    rows = [r for i, r in enumerate(ROWS) if (not chosen.only or r.table in chosen.only) and chosen.row in (None, i)]
    if not rows or chosen.jobs < 1 or chosen.seeds < 0:
        parser.error(
            f"rows are 0 to {len(ROWS) - 1}, those of --only alone where it is given; one job or more; seeds from 0"
        )
    bench.make_videos(chosen.clips)
    if chosen.tried is not None:
        return try_settings(bench, rows[0].work, chosen.tried)
    if chosen.seeds:
        run_all(chosen, bench, jobs_of([row.work for row in rows], chosen.seeds))
    for name in dict.fromkeys(row.table for row in rows):
        print(f"## {name}\n", *table(bench, name), sep="\n\n", end="\n\n")
    return None


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"a job ended with status {error.returncode}, see above; the same command goes on with what is not done"
        )
