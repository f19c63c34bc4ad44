"""``stvg predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import (
    CACHE,
    CHECKPOINT,
    FOLDER,
    OUT_FOLDER,
    device_option,
    encoder_names,
    encoder_options,
    refuse_with,
    refuse_without,
    say,
)
from ..outputs import naming_write_errors, writable_file, writable_folder
from ..requested import option
from ..wording import counted, install
from .grounding.request import MOST, Ground, Question, answered, questions_about

if TYPE_CHECKING:
    from ..errors import StvgError
    from .grounding.answers import Grounding
    from .grounding.predictor import Predictor

OUT = Path("grounding")
OF_HEAD = ("  trained on", "  encoder")
"""Prefixes of the lines of `Grounding.doubts` that are the same for every video."""
NAMED = 5
"""Number of videos that are reported individually; the others are counted."""


@click.command(short_help="Ground sentences in a video of your own.")
@click.argument("video", type=FOLDER, required=False, metavar="VIDEO|FOLDER|FILE.csv")
@click.argument("sentences", nargs=-1, metavar="SENTENCE...")
@click.option(
    "--checkpoint", type=CHECKPOINT, required=True, metavar="FILE|DIR", help="A head of stvg train-head, or its run."
)
@encoder_names
@encoder_options
@click.option(
    "--cache",
    type=CACHE,
    metavar="DIR|URL",
    help="Where to read the features of videos: a cache of stvg extract, or a folder that this command fills.  "
    "[computed each time]",
)
@option(
    Ground,
    "moments",
    type=click.IntRange(1, MOST),
    help="Number of moments per sentence, the likeliest first; also with --serve.",
)
@click.option("--out", type=OUT_FOLDER, help=f"Folder for predictions.jsonl and 1.mp4 …  [{OUT}]")
@click.option("--no-video", is_flag=True, help="Write boxes only, no annotated videos.")
@click.option("--serve", is_flag=True, help="Ask on a web page instead, which only this machine can open.")
@click.option("--videos", type=FOLDER, metavar="DIR", help="With --serve: a folder of videos to choose from.")
@click.option("--port", type=click.IntRange(0, 65535), help="With --serve: port of the page.  [any free one]")
@device_option
def predict(
    video: Path | None,
    sentences: tuple[str, ...],
    out: Path | None,
    no_video: bool,
    serve: bool,
    videos: Path | None,
    port: int | None,
    **asked: Any,
) -> None:
    """Find when and where in a video the event of each SENTENCE happens.

    The moments and their scores are printed. The boxes are written to predictions.jsonl, and drawn into one video per
    sentence.

    VIDEO is one file. For a FOLDER, every sentence is asked of every video in it. A FILE.csv with the columns video and
    sentence lists one question per line.

    The encoders must be those that the head was trained on: name the same weights as for stvg extract. With --cache, the
    features of a video are computed once and read for later questions. In a cache of stvg extract, a video is found by
    the end of its path.

    With --serve, videos and sentences are chosen on a web page. Its address is printed.

    Exits with 3 if some of several videos could not be read.

    \b
    Examples:
      stvg predict street.mp4 "the man in red turns around" --checkpoint runs/fsm/best.safetensors --cache asked
      stvg predict clips/ "a dog runs" --checkpoint runs/fsm/best.safetensors --moments 3
      stvg predict vidor/video/1006/22.mp4 "a dog runs" --checkpoint runs/fsm/best.safetensors --cache cache/vidstg
      stvg predict --serve --videos vidor/video --checkpoint runs/fsm/best.safetensors
    """
    if serve:
        on_page = "videos and sentences are chosen on the page, which shows all answers and keeps none"
        refuse_with("--serve", {"VIDEO": video, "--out": out, "--no-video": no_video}, on_page)
    else:
        refuse_without("--serve", {"--videos": videos, "--port": port})
    if not serve and not (video and (sentences or video.suffix.lower() == ".csv")):
        raise click.UsageError(f"Missing argument '{'SENTENCE...' if video else 'VIDEO'}'.")
    request = Ground(**asked)
    if isinstance(request.cache, Path) and not request.cache.is_dir():
        writable_folder(request.cache)
    from ..stop import Stop
    from .grounding.folder import PREDICTIONS, film_name, require_room
    from .grounding.predictor import open_predictor

    if video is None:
        with Stop() as stop, stop.at_once(), open_predictor(request) as predictor:
            open_page(predictor, request, videos, port or 0)
        return
    questions = questions_about(video, sentences)
    out = writable_folder(out or OUT)
    count = 0 if no_video else sum(len(question.sentences) for question in questions)
    require_room(out, count, [question.file for question in questions])
    for name in (PREDICTIONS, *map(film_name, range(1, count + 1))):
        writable_file(out / name)
    with Stop() as stop, stop.at_once(), open_predictor(request) as predictor:
        answer(predictor, questions, request.moments, out, no_video)


def answer(predictor: Predictor, questions: Sequence[Question], moments: int, out: Path, no_video: bool) -> None:
    """Answer the questions, write the results, and print a table."""
    from .grounding.answers import WHAT_SCORES_MEAN
    from .grounding.film import write_films
    from .grounding.folder import write_answers
    from .styles import render

    faults: list[StvgError] = []
    rows: list[list[str]] = []
    doubts: list[list[str]] = []
    several = len(questions) > 1
    with Progress("predict", "videos", len(questions) if several else None, doing="reading") as bar:
        bar.say(plan_of(questions, moments, predictor.device, out), err=True)

        def draw(found: Grounding, films: Sequence[Path]) -> None:
            bar.doing = f"drawing {found.video.video_id}"
            write_films(found, films)

        def told(found: Grounding) -> Grounding:
            rows.extend(rows_of(found, sum(row[0] != "" for row in rows)))
            doubts.extend([found.doubts] if found.doubts else [])
            bar.step()
            return found

        with naming_write_errors(out):
            found = map(told, answered(predictor, questions, moments, faults))
            boxes = write_answers(out, found, None if no_video else draw)
    heads = ("", "video", "sentence", "moment", "frames", "score", "likely")
    shown = [k for k in range(len(heads)) if several or heads[k] != "video"]
    say(
        render([heads[k] for k in shown], [[row[k] for k in shown] for row in rows], "rllrrrr"[-len(shown) :]), nl=False
    )
    say(WHAT_SCORES_MEAN)
    say(f"boxes → {boxes}" + (f", videos → {out / '1.mp4'} …" if rows and not no_video else ""))
    warn(doubts)
    for fault in faults[:NAMED]:
        say(f"{type(fault).__name__}: {fault}", err=True)
    if faults:
        say(f"{counted(len(faults), 'video')} of {len(questions):,} could not be read", err=True)
        raise SystemExit(3)


def plan_of(questions: Sequence[Question], moments: int, device: object, out: Path) -> str:
    """What will be answered, as one line."""
    count = sum(len(question.sentences) for question in questions)
    videos = questions[0].shown if len(questions) == 1 else counted(len(questions), "video")
    each = f", {moments} moments each" if moments > 1 else ""
    return f"answering {counted(count, 'question')} about {videos}{each}; on {device} → {out}"


def warn(doubts: Sequence[Sequence[str]]) -> None:
    """Print per video why its scores may mean nothing, and once the lines about the head."""
    own = [line for lines in doubts[:NAMED] for line in lines if not line.startswith(OF_HEAD)]
    more = [f"so {'is' if len(doubts) == NAMED + 1 else 'are'} {counted(len(doubts) - NAMED, 'more video')}"]
    heads = dict.fromkeys(line for lines in doubts for line in lines if line.startswith(OF_HEAD))
    for line in (*own, *(more if len(doubts) > NAMED else ()), *heads):
        say(line, err=True)


def rows_of(found: Grounding, before: int) -> list[list[str]]:
    """One row per moment of a video. A sentence's first row has its number and text. ``before``: sentences so far."""
    rows = []
    for number, answer in enumerate(found.answers, start=before + 1):
        for rank, moment in enumerate(answer.moments):
            seconds, score = found.seconds(moment), answer.tube.score
            rows.append(
                [
                    *(
                        ("", "", "")
                        if rank
                        else (str(number), found.video.video_id, answer.sentence.replace("\n", " "))
                    ),
                    "–" if seconds is None else "{:.1f}–{:.1f} s".format(*seconds),
                    f"{moment.start}–{moment.end - 1}",
                    "" if rank else "–" if score is None else f"{score:.2f}",
                    f"{moment.probability:.2g}",
                ]
            )
    return rows


def open_page(predictor: Predictor, request: Ground, videos: Path | None, port: int) -> None:
    """Serve the page and answer its questions in this thread, until it is interrupted."""
    from tempfile import TemporaryDirectory

    from ..errors import UsageError
    from ..stop import Interrupted
    from .grounding.answers import WHAT_SCORES_MEAN
    from .report.findings import head_facts

    try:
        from .serve.desk import Desk
        from .serve.host import serving
        from .serve.site import POLICY, Site
    except ImportError:
        raise UsageError("--serve needs Starlette and uvicorn", hint=install("serve")) from None
    if videos and not videos.is_dir():
        raise UsageError(f"{videos} is not a folder of videos", hint="--videos DIR")
    predictor.require_backbone()
    with TemporaryDirectory(prefix="stvg-") as scratch:
        desk = Desk(predictor, Path(scratch, "answers"), request.moments)
        uploads = Path(scratch, "uploads")
        uploads.mkdir()
        about = {**head_facts(request.checkpoint, predictor.head), "scores": WHAT_SCORES_MEAN}
        site = Site(desk, videos, uploads, about)
        with serving(site.routes, POLICY, port) as address:
            say(f"ask at {address}  (Ctrl-C ends it)")
            try:
                desk.work()
            except Interrupted as stop:
                stop.says = "the server ended; its page answers no more, and what was sent to it is deleted"
                raise
