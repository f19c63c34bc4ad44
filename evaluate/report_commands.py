"""``stvg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..console import Progress
from ..options import FOLDER, OUT_FILE, device_option, say
from ..outputs import naming_write_errors
from ..wording import counted
from .scoring_commands import scoring_of, scoring_options

NAMED = 5
"""Videos that could not be read and are printed; the others are counted."""


@click.command(short_help="One HTML page to look at: scores, curves, and a gallery of groundings.")
@scoring_options
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos.  [tubes without pictures]")
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=36,
    show_default=True,
    help="Samples that get frames: by turns the best, the median, the worst, and the most changed.",
)
@click.option(
    "--metrics", type=FOLDER, metavar="FILE", help="metrics.jsonl of the training.  [beside the checkpoint, if there]"
)
@click.option(
    "--against", type=FOLDER, metavar="FILE", help="Scores of another run (stvg evaluate --json) to set it beside."
)
@click.option("--name", default=None, help="What the run is called.  [folder of the checkpoint, or file's name]")
@click.option("--out", type=OUT_FILE, default=Path("report.html"), show_default=True, help="The page.")
@device_option
def report(
    videos: Path | None,
    pictures: int,
    metrics: Path | None,
    against: Path | None,
    name: str | None,
    out: Path,
    **chosen: Any,
) -> None:
    """Write one HTML page to look at, which needs no network, no server and no other file.

    Exits with 3 when videos could not be read: the page says which, and is whole without their frames.

    \b
    Examples:
      stvg report --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --videos vidor/video --out report.html
      stvg report --predictions tubes.jsonl --dataset vidstg --annotations vidstg --against fsm.json
    """
    from ..errors import UsageError
    from .compare import ScoresFile, compare, read_scores
    from .report.findings import ReportContent
    from .report.page import write_report
    from .report.training import read_training

    if videos and not videos.is_dir():  # before a head runs for minutes
        raise UsageError(f"{videos} is not a folder of videos", effect="nothing was read", hint="--videos DIR")
    checkpoint, source = chosen["checkpoint"], chosen["checkpoint"] or chosen["predictions"]
    if metrics is None and checkpoint and (beside := checkpoint.parent / "metrics.jsonl").exists():
        metrics = beside
    training = read_training(metrics) if metrics else []
    other = read_scores(against) if against else None
    needed = videos if checkpoint else None  # by heads that were trained end to end
    scored = scoring_of({**chosen, "videos": needed, **({"explain": True} if checkpoint else {})}).run()
    ours = ScoresFile.of(source, scored.scores)
    findings = ReportContent(
        name=name or (checkpoint.absolute().parent.name if checkpoint else source.stem),
        dataset=scored.dataset,
        split=chosen["split"],
        scores=scored.scores,
        samples=scored.samples,
        tubes=scored.tubes,
        evidence=scored.evidence,
        training=training,
        against=compare(other, ours) if other else None,
        facts=scored.facts,
    )
    with Progress("report", "videos", doing="drawing the page") as bar, naming_write_errors(out):
        written = write_report(out, findings, videos, pictures, bar.step)
    faults = list(written.faults.values())
    for fault in faults[:NAMED]:
        say(f"{type(fault).__name__}: {fault}", err=True)
    if len(faults) > NAMED:
        say(f"{counted(len(faults) - NAMED, 'video')} more could not be read; the page names them all", err=True)
    say(f"{written.path}  {written.bytes / 1e6:.1f} MB, {counted(written.pictured, 'sample')} with frames")
    if faults:
        raise SystemExit(3)
