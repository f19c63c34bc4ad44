"""Options of ``stvg evaluate`` and ``stvg report`` that define what is scored, and the request built from them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from ..options import (
    CACHE,
    CHECKPOINT,
    FOLDER,
    annotation_set_option,
    encoder_names,
    options,
    tokenizer_option,
    vidor_option,
    weight_options,
)
from ..requested import PROTOCOL_HELP, option
from .scoring import CheckpointScoring, PredictionScoring

scoring_options = options(
    click.option(
        "--checkpoint",
        type=CHECKPOINT,
        metavar="FILE|DIR",
        help="A head of stvg train-head, or its run; needs --cache.",
    ),
    click.option("--cache", type=CACHE, metavar="DIR|URL", help="The cache to read features from."),
    annotation_set_option,
    click.option(
        "--predictions",
        type=FOLDER,
        metavar="FILE",
        help="Predictions of any model: JSON lines, results of TubeDETR, STCAT or CG-STVG, HC-STVG's challenge JSON; "
        "needs --dataset and --annotations.",
    ),
    option(PredictionScoring, "dataset", required=False, help="Annotation format, with --predictions."),
    click.option(
        "--annotations", type=FOLDER, metavar="PATH", help="Dataset folder or annotation file, with --predictions."
    ),
    vidor_option,
    option(CheckpointScoring, "split"),
    option(CheckpointScoring, "protocol", help=PROTOCOL_HELP),
    option(PredictionScoring, "fps", type=float, help="Sampling rate scored at.  [5, or the cache's]"),
    option(CheckpointScoring, "max_frames", type=int, help="Slots of a clip.  [100, or the head's]"),
    option(PredictionScoring, "allow_missing", help="Score what is there; missing samples are counted, not fatal."),
    encoder_names,
    weight_options,
    tokenizer_option,
)
"""The encoder options apply to a head whose encoders were trained with it."""
ENCODERS = ("backbone", "text_encoder", "backbone_weights", "text_weights", "tokenizer")


def scoring_of(given: dict[str, Any]) -> CheckpointScoring | PredictionScoring:
    """The request defined by options. Raises click.UsageError for options that exclude each other or need others."""
    if (given["checkpoint"] is None) == (given["predictions"] is None):
        raise click.UsageError(
            "give either --checkpoint with --cache, or --predictions with --dataset and --annotations"
        )
    said = {name: value for name, value in given.items() if value is not None and value is not False}
    kind: type[CheckpointScoring | PredictionScoring] = CheckpointScoring if given["checkpoint"] else PredictionScoring
    if kind is CheckpointScoring:
        said["encoders"] = {name: said.pop(name, None) for name in ENCODERS}
        if said.get("cache") is None:
            raise click.UsageError("--checkpoint needs --cache: where the features are")
    elif not (given["dataset"] and given["annotations"]):
        raise click.UsageError("--predictions needs --dataset and --annotations")
    if foreign := sorted(said.keys() - {each.name for each in fields(kind)}):
        scored = "checkpoint" if kind is CheckpointScoring else "predictions"
        raise click.UsageError(f"--{scored} does not go with --{foreign[0].replace('_', '-')}")
    return kind(**said)
