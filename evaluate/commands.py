"""``stvg demo`` and ``stvg evaluate``, and what is scored and how for ``stvg report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..cache.options import (
    CACHE,
    DATASETS,
    FOLDER,
    choose_device,
    device_option,
    options,
    protocol_option,
    say,
    tick,
    tokenizer_option,
    vidor_option,
)

if TYPE_CHECKING:
    from ..cache.objects import Location
    from ..cache.schema import Sample, Tube
    from .metrics import Scores
    from .report.findings import Evidence


@click.command(short_help="Do it all on synthetic videos, from pixels to scores.")
@click.option("--out", type=FOLDER, default=Path("stvg-demo"), show_default=True, help="Where everything is written.")
@click.option("--quick", is_flag=True, help="A smaller run that shows the plumbing works; its scores mean little.")
@click.option("--report", is_flag=True, help="Write report.html, too: the held-out groundings to look at.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of videos, encoders and head.")
def demo(out: Path, quick: bool, report: bool, seed: int) -> None:
    """Do it all on synthetic videos: make them, extract, train, evaluate, and draw one grounding."""
    from .demo import run_demo

    run_demo(out, quick=quick, seed=seed, report=report, say=say)


scoring_options = options(
    click.option("--checkpoint", type=FOLDER, metavar="FILE", help="A head of stvg train-head; needs --cache."),
    click.option("--cache", "cache_path", type=CACHE, metavar="DIR|URL", help="The cache to read features from."),
    click.option(
        "--predictions",
        type=FOLDER,
        metavar="FILE",
        help="Anyone's predictions: JSON lines, results of TubeDETR, STCAT or CG-STVG, HC-STVG's challenge JSON; "
        "needs --dataset, --annotations.",
    ),
    click.option("--dataset", type=click.Choice(DATASETS), help="Annotation format, with --predictions."),
    click.option(
        "--annotations", type=FOLDER, metavar="PATH", help="Dataset folder or annotation file, with --predictions."
    ),
    vidor_option,
    click.option("--split", default="test", show_default=True),
    protocol_option,
    click.option("--fps", type=float, default=None, help="Sampling rate scored at.  [5, or the cache's]"),
    click.option("--max-frames", type=int, default=None, help="Slots of a clip.  [100, or the head's]"),
    click.option("--allow-missing", is_flag=True, help="Score what is there; missing samples are counted, not fatal."),
)
"""What is scored, and how."""


class BatchSize(click.ParamType):
    """A number of clips, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or (isinstance(value, int) and value > 0):
            return value
        if not (isinstance(value, str) and value.isdecimal() and int(value)):
            self.fail(f"{value!r} is neither a number of clips nor auto", param, ctx)
        return int(value)


@click.command(short_help="Score a head, or anyone's predictions, as the field counts.")
@scoring_options
@click.option(
    "--videos", type=FOLDER, metavar="DIR", help="Folder of the videos, for a head that was trained end to end."
)
@tokenizer_option
@click.option(
    "--batch-size",
    type=BatchSize(),
    help="Clips run at once; auto: as many as pay on this device. May move the last bits of tubes.  [the head's]",
)
@click.option(
    "--shuffle-sentences", type=int, metavar="SEED", help="Control: give every sample another one's sentence."
)
@click.option("--out", type=FOLDER, metavar="FILE", help="Write the head's predictions here (.jsonl).")
@click.option("--json", "json_path", type=FOLDER, metavar="FILE", help="Write scores here, per group and per sample.")
@click.option(
    "--export",
    "exports",
    type=(click.Choice(["challenge", "coco", "csv"]), FOLDER),
    multiple=True,
    metavar="KIND FILE",
    help="Write predictions as HC-STVG's challenge or COCO-style video boxes, or scores as csv. May be repeated.",
)
@click.option(
    "--compare",
    type=(FOLDER, FOLDER),
    metavar="A B",
    help="Compare two files of --json instead: paired differences, and the samples that changed most.",
)
@click.option(
    "--style", type=click.Choice(["terminal", "markdown", "csv", "latex"]), default="terminal", show_default=True
)
@device_option
def evaluate(
    json_path: Path | None,
    exports: tuple[tuple[str, Path], ...],
    compare: tuple[Path, Path] | None,
    style: str,
    **chosen: Any,
) -> None:
    """Score a head, or anyone's predictions, as the field counts; 95 % intervals are over other draws of the videos.

    \b
    Examples:
      stvg evaluate --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --split test --json fsm.json
      stvg evaluate --predictions tubes.jsonl --dataset vidstg --annotations vidstg --split test --json theirs.json
      stvg evaluate --compare theirs.json fsm.json
    """
    from .tables import format_comparison, format_table

    if compare:
        if (
            json_path
            or exports
            or any(chosen[k] for k in ("checkpoint", "predictions", "cache_path", "dataset", "out"))
        ):
            raise click.UsageError("--compare takes two files of scores and nothing else")
        from .compare import compare as compare_runs
        from .compare import read_scores

        first, second = compare
        names = [p.stem if first.stem != second.stem else str(p) for p in compare]
        found = compare_runs(read_scores(first), read_scores(second))
        say(format_comparison(found, names[0], names[1]), nl=False)
        return
    scored = score_chosen(**chosen)
    say(format_table(scored.scores, dataset=scored.dataset, split=chosen["split"], style=style), nl=False)
    write_results(scored, json_path, exports)


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


def write_results(found: Scored, json_path: Path | None, exports: tuple[tuple[str, Path], ...]) -> None:
    from ..cache.atomic import write_atomic
    from .exports import write_challenge, write_coco, write_csv

    if json_path:
        write_atomic(json_path, json.dumps(found.scores.to_json(), indent=1) + "\n")
    for kind, path in exports:
        if kind == "csv":
            write_csv(path, found.samples, found.tubes, found.scores)
        else:
            (write_challenge if kind == "challenge" else write_coco)(path, found.samples, found.tubes)


def score_head(
    checkpoint: Path,
    cache_path: Location | None,
    split: str,
    protocol: str,
    max_frames: int | None,
    batch_size: int | str | None,
    shuffle_sentences: int | None,
    videos: Path | None,
    tokenizer: str | None,
    out: Path | None,
    device: str | None,
    explain: bool = False,
    **unused: Any,
) -> Scored:
    """``explain``: keep the evidence for every tube."""
    from dataclasses import replace

    from tqdm import tqdm

    from ..cache.index import Cache
    from ..heads.batch_size import fitting_batch_size
    from .evaluation import load_head, open_split, readings_of, score_split, tubes_of
    from .evaluation import shuffle_sentences as shuffle
    from .predictions import write_predictions
    from .report.findings import Evidence, head_facts

    given = [k for k in ("dataset", "annotations", "vidor", "fps") if unused.get(k) is not None]
    if cache_path is None or given:
        wrong = f"does not go with --{given[0]}: the cache says" if given else "needs --cache:"
        raise click.UsageError(f"--checkpoint {wrong} where the features are")
    target = choose_device(device)
    head = load_head(checkpoint, target, tokenizer)
    opened = Cache.open(cache_path)
    if max_frames:
        head = replace(head, sampling=replace(head.sampling, max_frames=max_frames))
    data = open_split(head, opened, split, videos)
    if shuffle_sentences is not None:
        shuffle(data, shuffle_sentences)
    if batch_size == "auto":
        batch_size = fitting_batch_size(head.model, data, head.model.head.config.max_frames, target)
        say(f"{batch_size} clips at once", err=True)
    size = int(batch_size or head.batch_size)
    tubes: dict[int | str, Tube] = {}
    evidence: dict[int | str, Evidence] = {}
    with tqdm(total=len(data), desc="evaluate", unit=" sentences", disable=None) as bar:
        if explain:
            for reading in readings_of(head.model, data, size, target, lambda: tick(bar)):
                tubes[reading.tube.sample_id] = reading.tube
                evidence[reading.tube.sample_id] = Evidence.of(reading)
        else:
            tubes = tubes_of(head.model, data, size, target, lambda: tick(bar))
    if out:
        write_predictions(out, tubes.values(), {s.sample_id: s for s in data.samples()})
    scores = score_split(data, tubes, protocol)
    facts = head_facts(checkpoint, head, opened)
    return Scored(scores, opened.recipe.dataset, list(data.samples()), tubes, evidence, facts)


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
    from ..extract.readers import read_annotations
    from .metrics import score
    from .predictions import LINES, read_prediction_file

    if dataset is None or annotations is None:
        raise click.UsageError("--predictions needs --dataset and --annotations")
    of_heads = ("cache_path", "batch_size", "shuffle_sentences", "videos", "tokenizer", "out")
    given = [k for k in of_heads if unused.get(k) is not None]
    if given:
        raise click.UsageError(f"--predictions does not go with --{given[0].replace('_path', '').replace('_', '-')}")
    sampling = Sampling(fps or 5.0, max_frames or 100)
    read = read_annotations(dataset, annotations, split, sampling=sampling, for_scoring=True, vidor=vidor)
    found = read_prediction_file(predictions, read.samples, read.captions_first)
    if found.format != LINES:
        say(f"{predictions} was read as {found.format}; tubes: {len(found.tubes):,}", err=True)
    scores = score(read.samples, found.tubes, protocol=protocol, sampling=sampling, allow_missing=allow_missing)
    facts = {"predictions": predictions.name} | ({} if found.format == LINES else {"format": found.format})
    return Scored(scores, dataset, read.samples, found.tubes, {}, facts)
