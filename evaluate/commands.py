"""``stvg demo``, ``stvg evaluate`` and ``stvg runs``."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from ..options import FOLDER, OUT_FILE, OUT_FOLDER, device_option, refuse_with, say
from ..outputs import naming_write_errors
from ..requested import option
from .demo.request import DemoRequest
from .scoring import CheckpointScoring, Scored
from .scoring_commands import scoring_of, scoring_options

style_option = click.option(
    "--style", type=click.Choice(["terminal", "markdown", "csv", "latex"]), default="terminal", show_default=True
)


@click.command(short_help="Do it all on synthetic videos, from pixels to scores.")
@option(DemoRequest, "out", type=OUT_FOLDER, help="Where everything is written.")
@option(DemoRequest, "quick", help="Fewer videos and epochs: half of the time, and a head that has learned less.")
@option(DemoRequest, "report", help="Write report.html, too: the held-out groundings to look at.")
@option(
    DemoRequest,
    "encoders",
    metavar="BACKBONE+TEXT",
    help="Visual and text encoder, see stvg encoder list. lite0+minilm are trained ones, with the extra lite.",
)
@option(DemoRequest, "seed", type=int, help="Seed of videos, random encoders and head.")
def demo(**given: Any) -> None:
    """Do it all on synthetic videos: make them, extract, train, evaluate, and draw one grounding.

    \b
    Examples:
      stvg demo --quick
      stvg demo --quick --encoders lite0+minilm --out demo-lite
    """
    request = DemoRequest(**given)  # errors in the request are raised before torch is imported
    from .demo.run import run_demo

    with naming_write_errors(request.out):
        run_demo(request, say)


class BatchSize(click.ParamType):
    """A number of clips, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or (isinstance(value, int) and value > 0):
            return value
        if not (isinstance(value, str) and value.isdecimal() and int(value)):
            self.fail(f"{value!r} is neither a number of clips nor auto", param, ctx)
        return int(value)


@click.command(short_help="Score a head, or predictions of any model.")
@scoring_options
@click.option(
    "--videos", type=FOLDER, metavar="DIR", help="Folder of the videos, for a head that was trained end to end."
)
@click.option(
    "--batch-size",
    type=BatchSize(),
    help="Clips in one batch. auto: as many as this device computes fastest. Boxes may differ by rounding.  [the head's]",
)
@option(
    CheckpointScoring,
    "shuffle_sentences",
    type=int,
    metavar="SEED",
    help="Control: give every sample another one's sentence.",
)
@click.option("--out", type=OUT_FILE, metavar="FILE", help="Write the head's predictions here (.jsonl).")
@click.option("--json", "json_path", type=OUT_FILE, metavar="FILE", help="Write scores here, per group and per sample.")
@click.option(
    "--export",
    "exports",
    type=(click.Choice(["challenge", "coco", "csv"]), OUT_FILE),
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
@style_option
@device_option
def evaluate(
    out: Path | None,
    json_path: Path | None,
    exports: tuple[tuple[str, Path], ...],
    compare: tuple[Path, Path] | None,
    style: str,
    **chosen: Any,
) -> None:
    """Score a head, or predictions of any model, with the usual metrics. The 95 % intervals are bootstrap intervals over
    videos.

    \b
    Examples:
      stvg evaluate --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --split test --json fsm.json
      stvg evaluate --predictions tubes.jsonl --dataset vidstg --annotations vidstg --split test --json theirs.json
      stvg evaluate --compare theirs.json fsm.json
    """
    from ..atomic import is_stream
    from .tables import format_comparison, format_table

    if compare:
        others = {f"--{name}": chosen[name] for name in ("checkpoint", "predictions", "cache", "dataset")}
        others |= {"--out": out, "--json": json_path, "--export": exports}
        refuse_with("--compare", others, "it takes two files of scores and nothing else")
        from .compare import compare as compare_runs
        from .compare import read_scores

        first, second = compare
        names = [p.stem if first.stem != second.stem else str(p) for p in compare]
        found = compare_runs(read_scores(first), read_scores(second))
        say(format_comparison(found, names[0], names[1], style), nl=False)
        return
    outputs = [p for p in (out, json_path, *(path for _, path in exports)) if p and not is_stream(p)]
    require_places_of_their_own(outputs, [chosen["checkpoint"], chosen["predictions"], chosen["annotations"]])
    if chosen["predictions"]:
        refuse_with("--predictions", {"--out": out}, "the predictions are in a file already")
    scored = scoring_of(chosen).run()
    say(format_table(scored.scores, dataset=scored.dataset, split=chosen["split"], style=style), nl=False)
    write_results(scored, out, json_path, exports)


@click.command(short_help="List the runs of a folder with their scores.")
@click.argument("folder", type=FOLDER, default=Path("runs"))
@click.option("--sort", metavar="COLUMN", help="Order by this column; scores from the highest on.  [run]")
@style_option
def runs(folder: Path, sort: str | None, style: str) -> None:
    """List the runs of a folder: preset, head, cache, how far each is, and scores in percent over all sentences.

    Scores are those of the best validation, and of every file of stvg evaluate --json in a run's folder.

    \b
    Example: stvg runs runs --sort m_vIoU
    """
    from .runs import format_runs, list_runs, ordered

    say(format_runs(ordered(list_runs(folder), sort), style), nl=False)


def write_results(
    found: Scored, out: Path | None, json_path: Path | None, exports: tuple[tuple[str, Path], ...]
) -> None:
    """Write the requested files. Raises WriteError for the first file that cannot be written."""
    from ..atomic import write_atomic
    from .exports import write_challenge, write_coco, write_csv
    from .predictions import write_predictions

    def writing(path: Path) -> AbstractContextManager[None]:
        return naming_write_errors(path, effect="the scores above are complete; this file is not there")

    if out:
        with writing(out):
            write_predictions(out, found.tubes.values(), {s.sample_id: s for s in found.samples})
    if json_path:
        with writing(json_path):
            write_atomic(json_path, json.dumps(found.scores.to_json(), indent=1) + "\n")
    for kind, path in exports:
        with writing(path):
            if kind == "csv":
                write_csv(path, found.samples, found.tubes, found.scores)
            else:
                (write_challenge if kind == "challenge" else write_coco)(path, found.samples, found.tubes)


def require_places_of_their_own(outputs: list[Path], inputs: list[Path | None]) -> None:
    """Raise UsageError if two results have the same path, or if a result would overwrite an input."""
    from ..errors import UsageError

    read = {path.resolve() for path in inputs if path}
    for number, path in enumerate(outputs):
        if path.resolve() in read or path.resolve() in {p.resolve() for p in outputs[:number]}:
            what = "is read by this command" if path.resolve() in read else "is named for two results"
            raise UsageError(f"{path} {what}", effect="nothing was read or written", hint="name another file")
