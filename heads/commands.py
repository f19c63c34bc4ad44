"""``stvg weights`` and ``stvg train-head``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import (
    CACHE,
    FOLDER,
    OUT_FOLDER,
    Commands,
    RowOf,
    choose_device,
    device_option,
    log_option,
    say,
)
from ..outputs import naming_write_errors
from .training.options import run_options
from .training.trackers.table import TRACKERS

if TYPE_CHECKING:
    from ..objects import Location


@click.group(cls=Commands)
def weights() -> None:
    """Convert published weights."""


@weights.command("import", short_help="Split a published checkpoint into its parts.")
@click.argument("source", type=FOLDER)
@click.option(
    "--out", type=OUT_FOLDER, required=True, metavar="DIR", help="A new folder for the parts and report.json."
)
def weights_import(source: Path, out: Path) -> None:
    """Split a checkpoint of MDETR, TubeDETR, STCAT, the FSM authors, torchvision or Hugging Face into backbone, text
    encoder and head, as safetensors; of DETR and CG-STVG only the encoders. SOURCE is a file, an index of shards, or
    a folder with either. Every tensor is accounted for. An incomplete part is refused, and so is a file that
    holds anything but tensors and options.

    \b
    Example: stvg weights import pretrained_resnet101_checkpoint.pth --out weights/mdetr
    """
    from .import_weights import import_weights

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
@click.option(
    "--track",
    type=RowOf(TRACKERS),
    multiple=True,
    help="Give the numbers of metrics.jsonl to this tracker, too; files on this machine, unless its own variables name a "
    "server. May be repeated.",
)
@log_option
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
    track: tuple[str, ...],
    profile: int | None,
    device: str | None,
    cache_path: Location | None,
    **given: Any,
) -> None:
    """Train the grounding head on cached features; with --mode, encoders as well.

    Encoders that train start from the weights that made the cache: give the same options as to stvg extract. Under
    torchrun every rank computes a part of each batch; the batch size counts all ranks. SIGINT and SIGTERM request a
    graceful stop: finish the step, save, exit with status 130 or 143. torchrun itself then exits with 1.

    \b
    Examples:
      stvg train-head --cache cache/vidstg --out runs/fsm --set train.batch_size=32
      stvg train-head --cache cache/vidstg --out runs/text --mode text --text-weights roberta-base/
      torchrun --nproc-per-node 2 -m stvg train-head --cache cache/vidstg --out runs/fsm
      stvg train-head --from-record runs/fsm/record.json --out runs/again
    """
    from ..cache.index import Cache
    from ..evaluate.training import train_requested
    from .training.launched import require_alone_or_torchrun
    from .training.options import TrainRequest
    from .training.owner import owned
    from .training.ranks import joined
    from .training.record import Record
    from .training.request import repeated

    require_alone_or_torchrun()
    recorded = Record.read(from_record) if from_record else None
    chosen = choose_device(recorded.request.device if recorded and not device else device)
    if recorded:
        request = repeated(ctx, recorded.request, {"cache_path": cache_path, **given})
    elif cache_path is None:
        raise click.UsageError("--cache is needed: the cache to train from")
    else:
        asked = TrainRequest(**given)
        _ = asked.experiment  # validate the settings before opening the cache
        request = asked.request(Cache.open(cache_path, asked.annotation_set), str(chosen))
    hint = "make room or mend the disk, then repeat the command: the run goes on from its last checkpoint"
    with joined(chosen) as (ranks, target), owned(out, ranks), naming_write_errors(out, hint=hint):
        train_requested(request, out, target, recorded, ranks, track, profile)
