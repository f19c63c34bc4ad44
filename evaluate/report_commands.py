"""``stvg report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import FOLDER, OUT_FILE, device_option, refuse_with, refuse_without, say
from ..outputs import naming_write_errors, writable_file
from ..wording import counted, install
from .scoring_commands import scoring_of, scoring_options

if TYPE_CHECKING:
    from .report.findings import ReportContent

OUT = Path("report.html")
RUNS = 5
"""Maximum number of other runs on one page; each has its own colour."""
NAMED = 5
"""Number of unreadable videos that are printed; the others are counted."""


@click.command(short_help="Write an HTML page: scores, curves, and a gallery of predictions.")
@scoring_options
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos.  [none: no frames are shown]")
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=36,
    show_default=True,
    help="Number of samples shown with frames, taken in turn from the best, the median, the worst and the most changed.",
)
@click.option(
    "--metrics",
    type=FOLDER,
    metavar="FILE",
    help="metrics.jsonl of the training.  [the one beside the checkpoint, if any]",
)
@click.option(
    "--against",
    type=FOLDER,
    multiple=True,
    metavar="FILE",
    help="Scores of another run to compare with, from stvg evaluate --json. May be repeated.",
)
@click.option(
    "--name", default=None, help="Name of the run on the page.  [folder of the checkpoint, or name of the file]"
)
@click.option("--out", type=OUT_FILE, help=f"The page.  [{OUT}]")
@click.option(
    "--serve",
    is_flag=True,
    help="Write no file. Show the page on this machine, with the frames of every sample; they are read on demand.",
)
@click.option("--port", type=click.IntRange(0, 65535), help="With --serve: port of the page.  [any free one]")
@device_option
def report(
    videos: Path | None,
    pictures: int,
    metrics: Path | None,
    against: tuple[Path, ...],
    name: str | None,
    out: Path | None,
    serve: bool,
    port: int | None,
    **chosen: Any,
) -> None:
    """Write an HTML page with scores, training curves, and predictions drawn into frames of the videos.

    The page is one file. It needs no network, no server and no other file. With --serve, it is shown on this machine
    instead, with the frames of every sample.

    Exits with 3 if videos could not be read. The page names them, and shows everything but their frames.

    \b
    Examples:
      stvg report --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --videos vidor/video --out report.html
      stvg report --predictions tubes.jsonl --dataset vidstg --annotations vidstg --against fsm.json
      stvg report --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --videos vidor/video --serve
    """
    if serve:
        refuse_with("--serve", {"--out": out}, "the page is shown and not written")
        if not videos:
            raise click.UsageError("--serve needs --videos DIR: the page shows their frames")
    else:
        refuse_without("--serve", {"--port": port})
    if not serve and out is None:
        writable_file(OUT)
    from ..errors import UsageError
    from .compare import ScoresFile, compare, read_scores
    from .report.findings import Against, ReportContent
    from .report.training import read_training

    if videos and not videos.is_dir():  # checked before the head runs, which may take minutes
        raise UsageError(f"{videos} is not a folder of videos", effect="nothing was read", hint="--videos DIR")
    checkpoint, source = chosen["checkpoint"], chosen["checkpoint"] or chosen["predictions"]
    if metrics is None and checkpoint and (beside := checkpoint.parent / "metrics.jsonl").exists():
        metrics = beside
    training = read_training(metrics) if metrics else []
    name = name or (checkpoint.absolute().parent.name if checkpoint else source.stem)
    names, others = names_of(against, name), [read_scores(file) for file in against]
    needed = videos if checkpoint else None  # read by heads that were trained end to end
    scored = scoring_of({**chosen, "videos": needed, **({"explain": True} if checkpoint else {})}).run()
    ours = ScoresFile.of(source, scored.scores)
    findings = ReportContent(
        name=name,
        dataset=scored.dataset,
        split=chosen["split"],
        scores=scored.scores,
        samples=scored.samples,
        tubes=scored.tubes,
        evidence=scored.evidence,
        training=training,
        against=[Against(name, compare(other, ours)) for name, other in zip(names, others, strict=True)],
        facts=scored.facts,
    )
    if serve and videos:
        show(findings, videos, port or 0)
    else:
        write(findings, videos, pictures, out or OUT)


def write(findings: ReportContent, videos: Path | None, pictures: int, out: Path) -> None:
    """Write the page, and report the videos that could not be read."""
    from .report.page import write_report

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


def show(findings: ReportContent, videos: Path, port: int) -> None:
    """Serve the page until the command is interrupted."""
    from threading import Event

    from ..errors import UsageError
    from ..stop import Interrupted, Stop

    try:
        from .report.live import POLICY, LiveReport
        from .serve.host import serving
    except ImportError:
        raise UsageError("--serve needs Starlette and uvicorn", hint=install("serve")) from None
    with Stop() as stop, stop.at_once(), serving(LiveReport(findings, videos).routes, POLICY, port) as address:
        say(f"the report is at {address}  (Ctrl-C ends it)")
        try:
            Event().wait()
        except Interrupted as end:
            end.says = "the server ended; its page shows no more pictures"
            raise


def names_of(files: Sequence[Path], ours: str) -> list[str]:
    """Different names of other runs: the stem of each file, with its folder or its whole path where that is needed.

    ``ours``: the name of the run of the page. Raises UsageError for too many files, and for a file that occurs twice.
    """
    from ..errors import UsageError

    if len(files) > RUNS:
        raise UsageError(f"{len(files)} other runs do not fit on one page", expected=f"at most {RUNS}")
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError("--against names a file twice", found=", ".join(map(str, files)), hint="name each file once")
    names = [file.stem for file in files]
    for longer in (lambda file: f"{file.absolute().parent.name}/{file.stem}", str):
        taken = [ours, *names]
        names = [name if taken.count(name) == 1 else longer(file) for name, file in zip(names, files, strict=True)]
    return names
