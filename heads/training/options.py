"""What a run can be told on the command line, the same for every command that trains: `Asked` has a field for each."""

from __future__ import annotations

import click

from ...options import (
    FOLDER,
    Decorator,
    annotation_set_option,
    encoder_names,
    encoder_options,
    options,
    protocol_option,
)
from ..presets import presets


def run_options(preset: str, preset_help: str = "") -> Decorator:
    """The options of a run. ``preset``: the default one; ``preset_help``: said after the names of all."""
    return options(
        click.option(
            "--preset",
            default=preset,
            show_default=True,
            help=f"{', '.join(presets())}, or a .yaml file{preset_help}.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="A.B=C",
            help="Override a setting, e.g. --set train.lr=1e-4. May be repeated.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["cached", "text", "last-stage", "end-to-end"]),
            help="What trains besides the head: nothing, the text encoder, the backbone's last stage, or both encoders "
            "from pixels.  [the preset's: cached]",
        ),
        click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos; for --mode end-to-end."),
        encoder_names,
        encoder_options,
        click.option(
            "--init",
            type=FOLDER,
            metavar="FILE",
            help="Start the head from these weights: a checkpoint of stvg train-head, whose averaged head is taken, or "
            "head.safetensors of stvg weights import.",
        ),
        annotation_set_option,
        click.option("--split", default="train", show_default=True, help="Split to train on."),
        click.option(
            "--val-split",
            default=None,
            help="Split to validate on: best.safetensors is the epoch that scores best there, and its scores on this split "
            "say so. 'none': it is the last epoch.  [val, if the cache has it]",
        ),
        protocol_option,
    )
