"""Train a head as requested: the run, its record, and validation during training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..cache.index import Cache
from ..console import Progress
from ..heads.training.loop import train
from ..heads.training.profiling import Profile
from ..heads.training.progress import TrainingProgress, plan_of
from ..heads.training.ranks import ALONE, Ranks
from ..heads.training.record import Record, go_on
from ..heads.training.request import RunRequest
from ..objects import location
from ..options import say
from ..wording import counted
from .evaluation import validation


def train_requested(
    request: RunRequest,
    out: Path,
    device: torch.device,
    recorded: Record | None = None,
    ranks: Ranks = ALONE,
    track: Sequence[str] = (),
    profile: int | None = None,
) -> None:
    """Start or continue the requested training in the folder ``out``, and report progress.

    ``recorded``: the record of the run that is repeated, if any. ``track``: names of `TRACKERS`. ``profile``: number of
    steps to profile; see `Profile`.
    """

    if not ranks.first:
        logging.getLogger("stvg").setLevel(logging.ERROR)
    with Progress("train", "steps", doing="opening the cache, building the head", hidden=not ranks.first) as bar:
        tell = bar.say if ranks.first else lambda _: None
        run = request.run(out, Cache.open(location(request.cache), request.annotation_set), device, ranks)
        if run.start is not None:
            tell(str(run.start))
        validate = None
        if request.val_split != "none":
            held_out = run.open_validation(request.val_split)
            validate = validation(held_out, request.experiment.train.batch_size, device, request.protocol, ranks)
        go_on(run, Record.of(request, run), recorded, tell)
        if run.step > run.total_steps:
            tell(f"nothing is left to train: its weights are those of {run.step:,} steps, more than are asked for now")
            return
        if ranks.first:
            bar.say(plan_of(run, request.val_split, out), err=True)
        progress = TrainingProgress(bar, run)
        profiler = Profile(run.model, profile, out / "profile.json", bar.say) if profile and ranks.first else None
        validate = validate and progress.while_scoring(validate, request.val_split)
        best = train(run, validate, progress, track, profiler)
    if ranks.first:
        say(f"trained {counted(run.step, 'step')} → {best}")
