"""``stvg weights`` and ``stvg train-head``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..cache.options import (
    CACHE,
    FOLDER,
    Commands,
    choose_device,
    device_option,
    encoder_options,
    protocol_option,
)

if TYPE_CHECKING:
    from ..cache.objects import Location


@click.group(cls=Commands)
def weights() -> None:
    """Bring published weights into files of our own."""


@weights.command("import")
@click.argument("source", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="A new folder for the parts and report.json.")
def weights_import(source: Path, out: Path) -> None:
    """Split a checkpoint of MDETR, TubeDETR, the FSM authors, torchvision or Hugging Face into backbone, text encoder and
    head, as safetensors. Every tensor is accounted for; a part that is not whole is refused, and so is a file with anything
    but tensors and options in it.

    \b
    Example: stvg weights import pretrained_resnet101_checkpoint.pth --out weights/mdetr
    """
    from .published import import_weights

    click.echo("\n".join(import_weights(source, out).lines(source, out)))


@click.command("train-head", short_help="Train the grounding head, and encoders if asked.")
@click.option("--cache", "cache_path", type=CACHE, required=True, metavar="DIR|URL", help="The cache to train from.")
@click.option(
    "--out", type=FOLDER, default=Path("runs/head"), show_default=True, help="Run folder; repeat the command to go on."
)
@click.option("--preset", default="paper", show_default=True, help="paper, paper-hcstvg, tiny, or a .yaml file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="A.B=C",
    help="Override a setting, e.g. --set train.lr=1e-4. May be repeated.",
)
@click.option(
    "--mode",
    type=click.Choice(["cached", "text", "last-stage", "end-to-end"]),
    help="What trains besides the head: nothing, the text encoder, the backbone's last stage, or both encoders from "
    "pixels.  [the preset's: cached]",
)
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos; for --mode end-to-end.")
@encoder_options
@click.option(
    "--init",
    type=FOLDER,
    metavar="FILE",
    help="Start the head from these weights: head.safetensors of stvg weights import.",
)
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option(
    "--val-split", default=None, help="Split to validate on.  [val, then test, if the cache has it; 'none' for neither]"
)
@protocol_option
@device_option
def train_head(
    cache_path: Location,
    out: Path,
    preset: str,
    assignments: tuple[str, ...],
    mode: str | None,
    init: Path | None,
    split: str,
    val_split: str | None,
    protocol: str,
    device: str | None,
    **sources: Any,
) -> None:
    """Train the grounding head on cached features; with --mode, encoders as well.

    Encoders that train start from the weights the cache was made with: name these as you did for stvg extract.

    \b
    Examples:
      stvg train-head --cache cache/vidstg --out runs/fsm --set train.batch_size=32
      stvg train-head --cache cache/vidstg --out runs/text --mode text --text-weights roberta-base/
    """
    from ..cache.index import Cache
    from ..evaluate.evaluation import validation
    from .experiment import load_experiment
    from .train import Run, train

    experiment = load_experiment(preset, [*assignments, *([f"train.mode={mode}"] if mode else [])])
    if experiment.train.mode == "end-to-end" and sources["videos"] is None:
        raise click.UsageError("training end to end needs --videos, the folder of the videos")
    opened = Cache.open(cache_path)
    target = choose_device(device)
    run = Run(out, opened, experiment, split, target, sources, init)
    if run.start is not None:
        fresh, unused = len(run.start.fresh), len(run.start.unused)
        click.echo(
            f"the head starts from {init}; {fresh} of its tensors are drawn afresh, {unused} of the file's unused"
        )
    if run.resume():
        click.echo(f"going on at step {run.step:,} of {run.total_steps:,}")
    splits = set(opened.samples.splits)
    val_split = val_split or next((s for s in ("val", "test") if s in splits and s != split), "none")
    validate = None
    if val_split != "none":
        held_out = run.open_split(val_split)
        validate = validation(held_out, experiment.train.batch_size, target, protocol)
    with training_bar(run.total_steps, run.step) as bar:
        best = train(run, validate, bar)
    click.echo(f"trained {run.total_steps:,} steps → {best}")


class training_bar:
    """A tqdm bar with the loss and its terms; validation scores get a line of their own."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, initial=done, desc="train", unit=" steps", disable=None)

    def __enter__(self) -> training_bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, line: dict[str, Any]) -> None:
        self.bar.update(line["step"] - self.bar.n)
        if "loss" in line:
            terms = "  ".join(f"{k} {v:.2f}" for k, v in line.items() if k not in ("step", "loss", "lr"))
            self.bar.set_postfix_str(f"loss {line['loss']:.2f} = {terms}  lr {line['lr']:.1e}")
        else:
            scores = "  ".join(f"{k} {100 * v:.2f}" for k, v in line["validation"].items())
            self.bar.write(f"epoch {line['epoch']}: {scores}")
