"""What ``stvg evaluate`` and ``stvg report`` score, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..console import Progress
from ..extract.datasets.table import DATASETS
from ..options import (
    CACHE,
    FOLDER,
    RowOf,
    annotation_set_option,
    choose_device,
    encoder_names,
    options,
    protocol_option,
    say,
    tokenizer_option,
    vidor_option,
    weight_options,
)

if TYPE_CHECKING:
    from ..cache.schema import Sample, Tube
    from ..objects import Location
    from .metrics import Scores
    from .report.findings import Evidence


scoring_options = options(
    click.option("--checkpoint", type=FOLDER, metavar="FILE", help="A head of stvg train-head; needs --cache."),
    click.option("--cache", "cache_path", type=CACHE, metavar="DIR|URL", help="The cache to read features from."),
    annotation_set_option,
    click.option(
        "--predictions",
        type=FOLDER,
        metavar="FILE",
        help="Anyone's predictions: JSON lines, results of TubeDETR, STCAT or CG-STVG, HC-STVG's challenge JSON; "
        "needs --dataset, --annotations.",
    ),
    click.option("--dataset", type=RowOf(DATASETS), help="Annotation format, with --predictions."),
    click.option(
        "--annotations", type=FOLDER, metavar="PATH", help="Dataset folder or annotation file, with --predictions."
    ),
    vidor_option,
    click.option("--split", default="test", show_default=True),
    protocol_option,
    click.option("--fps", type=float, default=None, help="Sampling rate scored at.  [5, or the cache's]"),
    click.option("--max-frames", type=int, default=None, help="Slots of a clip.  [100, or the head's]"),
    click.option("--allow-missing", is_flag=True, help="Score what is there; missing samples are counted, not fatal."),
    encoder_names,
    weight_options,
    tokenizer_option,
)
"""What is scored, and how. Encoders are those of a head that trained them."""
ENCODERS = ("backbone", "text_encoder", "backbone_weights", "text_weights", "tokenizer")


class Scored(NamedTuple):
    """What there is to write after scoring."""

    scores: Scores
    dataset: str
    samples: list[Sample]
    tubes: dict[int | str, Tube]
    evidence: dict[int | str, Evidence]
    """Only of a head, and where it was asked for."""
    facts: dict[str, str]
    """What was scored, for people."""


def score_chosen(**chosen: Any) -> Scored:
    """Score what the options name."""
    if (chosen["checkpoint"] is None) == (chosen["predictions"] is None):
        raise click.UsageError(
            "give either --checkpoint with --cache, or --predictions with --dataset and --annotations"
        )
    return (score_head if chosen["checkpoint"] else score_predictions)(**chosen)


def score_head(
    checkpoint: Path,
    cache_path: Location | None,
    annotation_set: str | None,
    split: str,
    protocol: str,
    max_frames: int | None,
    batch_size: int | str | None,
    shuffle_sentences: int | None,
    videos: Path | None,
    device: str | None,
    explain: bool = False,
    **unused: Any,
) -> Scored:
    """``explain``: keep the evidence for every tube."""
    from dataclasses import replace

    from ..cache.index import Cache
    from ..heads.training.batch_size import fitting_batch_size
    from .evaluation import load_head, open_split, readings_of, score_split, tubes_of
    from .evaluation import shuffle_sentences as shuffle
    from .report.findings import Evidence, head_facts

    given = [k for k in ("dataset", "annotations", "vidor", "fps") if unused.get(k) is not None]
    if cache_path is None or given:
        wrong = f"does not go with --{given[0]}: the cache says" if given else "needs --cache:"
        raise click.UsageError(f"--checkpoint {wrong} where the features are")
    tubes: dict[int | str, Tube] = {}
    evidence: dict[int | str, Evidence] = {}
    with Progress("evaluate", "sentences", doing="loading the head") as bar:
        target = choose_device(device)
        head = load_head(checkpoint, target, {name: unused[name] for name in ENCODERS})
        opened = Cache.open(cache_path, annotation_set)
        if max_frames:
            head = replace(head, sampling=replace(head.sampling, max_frames=max_frames))
        data = open_split(head, opened, split, videos)
        if shuffle_sentences is not None:
            shuffle(data, shuffle_sentences)
        if batch_size == "auto":
            bar.doing = "looking for a batch size"
            batch_size = fitting_batch_size(head.model, data, head.model.head.config.max_frames, target)
            bar.say(f"{batch_size} clips at once", err=True)
        size = int(batch_size or head.batch_size)
        bar.at(0, len(data))
        if explain:
            for reading in readings_of(head.model, data, size, target, bar.step):
                tubes[reading.tube.sample_id] = reading.tube
                evidence[reading.tube.sample_id] = Evidence.of(reading)
        else:
            tubes = tubes_of(head.model, data, size, target, bar.step)
        bar.doing = "scoring"
        scores = head.mark(score_split(data, tubes, protocol), data)
        bar.doing = ""
    facts = head_facts(checkpoint, head, opened)
    return Scored(scores, opened.annotations.dataset, list(data.samples()), tubes, evidence, facts)


def score_predictions(
    predictions: Path,
    dataset: str | None,
    annotations: Path | None,
    vidor: Path | None,
    split: str,
    protocol: str,
    fps: float | None,
    max_frames: int | None,
    allow_missing: bool,
    **unused: Any,
) -> Scored:
    from ..cache.sampling import Sampling
    from ..extract.datasets.readers import read_annotations
    from .metrics import score
    from .predictions import LINES, read_prediction_file

    if dataset is None or annotations is None:
        raise click.UsageError("--predictions needs --dataset and --annotations")
    of_heads = ("cache_path", "annotation_set", "batch_size", "shuffle_sentences", "videos", "out", *ENCODERS)
    given = [k for k in of_heads if unused.get(k) is not None]
    if given:
        raise click.UsageError(f"--predictions does not go with --{given[0].replace('_path', '').replace('_', '-')}")
    sampling = Sampling(fps or 5.0, max_frames or 100)
    with Progress("evaluate", doing="reading annotations and predictions") as bar:
        read = read_annotations(dataset, annotations, split, sampling=sampling, for_scoring=True, vidor=vidor)
        found = read_prediction_file(predictions, read.samples, read.captions_first)
        bar.doing = f"scoring {len(read.samples):,} sentences"
        scores = score(read.samples, found.tubes, protocol=protocol, sampling=sampling, allow_missing=allow_missing)
    if found.format != LINES:
        say(f"{predictions} was read as {found.format}; tubes: {len(found.tubes):,}", err=True)
    facts = {"predictions": predictions.name} | ({} if found.format == LINES else {"format": found.format})
    return Scored(scores, dataset, read.samples, found.tubes, {}, facts)
