"""``stvg weights`` and ``stvg train-head``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import (
    CACHE,
    FOLDER,
    OUT_FOLDER,
    Commands,
    choose_device,
    device_option,
    say,
)
from ..outputs import naming_write_errors
from ..wording import counted
from .training.options import run_options

if TYPE_CHECKING:
    import torch

    from ..objects import Location
    from .training.ranks import Ranks
    from .training.record import Record
    from .training.request import Request


@click.group(cls=Commands)
def weights() -> None:
    """Convert published weights."""


@weights.command("import")
@click.argument("source", type=FOLDER)
@click.option(
    "--out", type=OUT_FOLDER, required=True, metavar="DIR", help="A new folder for the parts and report.json."
)
def weights_import(source: Path, out: Path) -> None:
    """Split a checkpoint of MDETR, TubeDETR, STCAT, the FSM authors, torchvision or Hugging Face into backbone, text
    encoder and head, as safetensors; of DETR and CG-STVG only the encoders. SOURCE is a file, an index of shards, or
    a folder with either. Every tensor is accounted for; a part that is not whole is refused, and so is a file with
    anything but tensors and options in it.

    \b
    Example: stvg weights import pretrained_resnet101_checkpoint.pth --out weights/mdetr
    """
    from .published import import_weights

    with Progress("import", doing="reading and splitting the file"), naming_write_errors(out):
        report = import_weights(source, out)
    say("\n".join(report.lines(source, out)))


@click.command("train-head", short_help="Train the grounding head, and encoders if asked.")
@click.option("--cache", "cache_path", type=CACHE, metavar="DIR|URL", help="The cache to train from; needed.")
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("runs/head"),
    show_default=True,
    help="Run folder; repeat the command to go on.",
)
@run_options("paper")
@device_option
@click.option(
    "--from-record",
    type=FOLDER,
    metavar="FILE",
    help="Repeat the run whose record.json this is. Places may be others (--cache, --videos, --init, weights); all else is "
    "as recorded.",
)
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files into the run folder, too.")
@click.option(
    "--profile",
    type=click.IntRange(min=1),
    metavar="N",
    help="Say where the time of N steps goes, with a trace.",
)
@click.pass_context
def train_head(
    ctx: click.Context,
    out: Path,
    from_record: Path | None,
    tensorboard: bool,
    profile: int | None,
    device: str | None,
    cache_path: Location | None,
    **given: Any,
) -> None:
    """Train the grounding head on cached features; with --mode, encoders as well.

    Encoders that train start from the weights the cache was made with: name these as you did for stvg extract. Under
    torchrun every rank takes its share of each batch, whose size is that of all ranks together. SIGINT and SIGTERM end
    a run after the step under way, saved, with status 130 and 143; torchrun itself then ends with 1.

    \b
    Examples:
      stvg train-head --cache cache/vidstg --out runs/fsm --set train.batch_size=32
      stvg train-head --cache cache/vidstg --out runs/text --mode text --text-weights roberta-base/
      torchrun --nproc-per-node 2 -m stvg train-head --cache cache/vidstg --out runs/fsm
      stvg train-head --from-record runs/fsm/record.json --out runs/again
    """
    from ..cache.index import Cache
    from .training.launched import require_alone_or_torchrun
    from .training.owner import owned
    from .training.ranks import joined
    from .training.record import Record
    from .training.request import Asked, repeated

    require_alone_or_torchrun()
    recorded = Record.read(from_record) if from_record else None
    chosen = choose_device(recorded.request.device if recorded and not device else device)
    if recorded:
        request = repeated(ctx, recorded.request, {"cache_path": cache_path, **given})
    elif cache_path is None:
        raise click.UsageError("--cache is needed: the cache to train from")
    else:
        asked = Asked(**given)
        _ = asked.experiment  # what is wrong with it is said before what may be wrong with the cache
        request = asked.request(Cache.open(cache_path, asked.annotation_set), str(chosen))
    hint = "make room or mend the disk, then repeat the command: the run goes on from its last checkpoint"
    with joined(chosen) as (ranks, target), owned(out, ranks), naming_write_errors(out, hint=hint):
        answer(request, recorded, out, ranks, target, tensorboard, profile)


def answer(
    request: Request,
    recorded: Record | None,
    out: Path,
    ranks: Ranks,
    device: torch.device,
    tensorboard: bool,
    profile: int | None,
) -> None:
    """Train what is requested, or what is left of it."""
    from ..cache.index import Cache
    from ..evaluate.evaluation import validation
    from ..objects import location
    from .training.profiling import Profile
    from .training.progress import TrainingProgress, plan_of
    from .training.record import Record, go_on
    from .training.train import train

    if not ranks.first:
        logging.getLogger("stvg").setLevel(logging.ERROR)
    tell = say if ranks.first else lambda _: None
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
        say(plan_of(run, request.val_split, out), err=True)
    with Progress("train", "steps", run.total_steps, run.step, hidden=not ranks.first) as bar:
        progress = TrainingProgress(bar)
        profiler = Profile(run.model, profile, out / "profile.json", bar.say) if profile and ranks.first else None
        validate = validate and progress.while_scoring(validate, request.val_split)
        best = train(run, validate, progress, tensorboard, profiler)
    tell(f"trained {counted(run.step, 'step')} → {best}")
