"""Training runs killed at random moments, in every mode: what is left, and what a repetition makes of it.

    uv run python tests/benchmarks/resume.py [--kills 50] [--head fsm] [--modes cached text …] [--seed 0]

A run is killed (SIGKILL) at a random moment, again and again until it ends, now and then asked to end (SIGTERM) instead.
Its last and best checkpoints must then equal those of an undisturbed run, tensor for tensor and bit for bit, and so must
every loss in metrics.jsonl. Runs have dropout, temporal crops, three views a video, accumulation, averaged weights and a
validation after every epoch. Prints a Markdown table; exits with 1 if anything differs. Everything is forked from this
process, which has its imports loaded and computes nothing itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import torch._dynamo  # what an optimizer loads on its way, loaded here once
from tables import table

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.evaluate.evaluation import validation
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import SyntheticConfig, write_vidstg
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.settings import load_experiment
from stvg.heads.training.live_batches import open_live_split  # noqa: F401
from stvg.heads.training.live_encoders import Sources  # noqa: F401  (loaded here, once)
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run
from stvg.heads.training.watch import SPEED
from stvg.requested import MODES
from stvg.stop import Interrupted

CPU = torch.device("cpu")
SETTINGS = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2")
SETTINGS += ("model.dropout=0.1", "train.epochs=2", "train.batch_size=4", "train.accumulate=2")
SETTINGS += (
    "train.lr_backbone=0.001",
    "train.lr_text=0.001",
    "train.ema=0.9",
    "train.log_every=1",
    "train.eval_every=1",
)
HEADS = {
    "fsm": ["model.num_queries=2"],
    "tubedetr": ["model.head=tubedetr"],
    "stcat": ["model.head=stcat", "model.max_frames=20"],
}
"""Settings of each head beside the common ones."""
of_head: list[str] = []
"""Those of the head that was chosen, set before any process is forked."""
GENTLE = 0.2
"""Share of SIGTERM among the signals."""


@dataclass
class Found:
    """What came of the kills of one mode."""

    mode: str
    steps: int
    kills: int = 0
    at: list[int] = field(default_factory=list)
    """Steps of the checkpoints that the killed left, -1 for none."""
    gentle: int = 0
    runs: int = 0
    problems: list[str] = field(default_factory=list)


def forked(work: Callable[[], None]) -> int:
    """The process number of a copy of this process that does some work."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    except Interrupted as stop:
        code = 128 + stop.signal
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def extract(data: Path, out: Path) -> None:
    options = {"backbone": "tiny", "resolution": 64, "splits": ["train", "test"], "levels": "full", "views": 3}
    job = ExtractJob(dataset="vidstg", annotations=data, out=out, sampling=Sampling(5.0, 40), device=CPU, **options)
    run_job(job)[0].raise_if_asked()


def train_once(scratch: Path, folder: Path, mode: str) -> None:
    """A run, or what is left of it."""
    experiment = load_experiment("tiny", [*SETTINGS, *of_head, f"train.mode={mode}"])
    sources = {"videos": scratch / "data/vidor/video"}
    run = Run(folder, Cache.open(scratch / "cache"), experiment, "train", CPU, sources)
    run.resume()
    train(run, validation(run.open_split("test"), 8, CPU, "tubedetr"))


def differences(ours: Path, whole: Path) -> list[str]:
    """What of a run's files is not as the undisturbed run left it."""
    found = []
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_checkpoint(ours / name), load_checkpoint(whole / name)
        if a.facts != b.facts or a.tensors.keys() != b.tensors.keys():
            found.append(f"{name}: other facts")
        found += [f"{name}: {k}" for k in b.tensors if not torch.equal(a.tensors[k], b.tensors[k])]
    if losses(ours) != losses(whole):
        found.append("metrics.jsonl")
    return found


def losses(folder: Path) -> list[dict[str, object]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in SPEED} for line in lines]


def disturb(scratch: Path, mode: str, kills: int, rng: random.Random) -> Found:
    """Runs of one mode, disturbed until so many kills are spent."""
    whole = scratch / f"{mode}-whole"
    start = time.perf_counter()
    assert exit_status(forked(lambda: train_once(scratch, whole, mode))) == 0
    duration = time.perf_counter() - start
    found = Found(mode, load_checkpoint(whole / "last.safetensors").facts["step"])
    while found.kills < kills:
        folder = scratch / f"{mode}-{found.runs}"
        while found.kills < kills and not disturb_once(found, scratch, folder, rng.uniform(0, duration), rng.random()):
            pass
        if code := exit_status(forked(lambda: train_once(scratch, folder, mode))):  # noqa: B023  (ends here)
            found.problems.append(f"{folder.name} ended with {code}")
        found.runs += 1
        found.problems += [f"{folder.name}: {d}" for d in differences(folder, whole)]
    return found


def disturb_once(found: Found, scratch: Path, folder: Path, delay: float, manner: float) -> bool:
    """Start a run, or what is left of it, and end it after ``delay`` seconds. True: it had come to its own end before."""
    pid = forked(lambda: train_once(scratch, folder, found.mode))
    time.sleep(delay)
    number = signal.SIGTERM if manner < GENTLE else signal.SIGKILL
    os.kill(pid, number)
    code = exit_status(pid)
    if code == 0:
        return True
    if code not in (-number, 128 + number):
        found.problems.append(f"{folder.name} ended with {code}")
    found.kills += 1
    found.gentle += number == signal.SIGTERM
    found.at.append(standing(folder))
    return False


def standing(folder: Path) -> int:
    """The step a killed run left in its newest checkpoint; every checkpoint that is there must be whole."""
    names = [folder / f"{n}.safetensors" for n in ("previous", "last", "best")]
    steps = [load_checkpoint(path).facts["step"] for path in names if path.exists()]
    return max(steps, default=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--head", choices=list(HEADS), default="fsm")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    of_head.extend(HEADS[chosen.head])
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_vidstg(scratch / "data", SyntheticConfig(train=4, val=0, test=1, seed=3))
        assert exit_status(forked(lambda: extract(scratch / "data", scratch / "cache"))) == 0
        ends = [chosen.kills * i // len(chosen.modes) for i in range(len(chosen.modes) + 1)]
        shares = [after - before for before, after in pairwise(ends)]
        found = [disturb(scratch, mode, kills, rng) for mode, kills in zip(chosen.modes, shares, strict=True)]
    steps = [" ".join(str(s) if s >= 0 else "none" for s in sorted(f.at)) for f in found]
    table(
        [
            "mode",
            "steps of a run",
            "runs",
            "kills",
            "of them SIGTERM",
            "checkpoints left, at steps",
            "differing tensors",
        ],
        [[f.mode, f.steps, f.runs, f.kills, f.gentle, at, len(f.problems)] for f, at in zip(found, steps, strict=True)],
    )
    problems = [p for f in found for p in f.problems]
    print("\n".join(problems))
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
