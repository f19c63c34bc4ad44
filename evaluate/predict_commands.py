"""``stvg predict``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import CACHE, FOLDER, OUT_FOLDER, choose_device, device_option, encoder_names, encoder_options, say
from ..outputs import naming_write_errors, writable_file, writable_folder
from ..wording import install

if TYPE_CHECKING:
    from ..objects import Location
    from .predict import Predictor


@click.command(short_help="Ground sentences in a video of your own.")
@click.argument("video", type=FOLDER, required=False)
@click.argument("sentences", nargs=-1, metavar="SENTENCE...")
@click.option("--checkpoint", type=FOLDER, required=True, metavar="FILE", help="A head of stvg train-head.")
@encoder_names
@encoder_options
@click.option(
    "--cache",
    type=CACHE,
    metavar="DIR|URL",
    help="Read the video's features here: a cache of stvg extract, or a folder that keeps those of every video asked of.",
)
@click.option("--out", type=OUT_FOLDER, help="Folder for predictions.jsonl and 1.mp4 …  [grounding]")
@click.option("--no-video", is_flag=True, help="Write no annotated videos.")
@click.option("--serve", is_flag=True, help="Ask on a page of this machine instead, as often as you like.")
@click.option("--videos", type=FOLDER, metavar="DIR", help="With --serve: a folder of videos to choose from.")
@click.option("--port", type=click.IntRange(0, 65535), help="With --serve: where the page is.  [any free one]")
@device_option
def predict(
    video: Path | None,
    sentences: tuple[str, ...],
    checkpoint: Path,
    cache: Location | None,
    out: Path | None,
    no_video: bool,
    serve: bool,
    videos: Path | None,
    port: int | None,
    device: str | None,
    **encoders: Any,
) -> None:
    """Find when and where in VIDEO each SENTENCE happens: moments and scores here, boxes in predictions.jsonl, and for each
    of them a video with the box drawn.

    The encoders must be those the head was trained on: name their weights as you did for stvg extract. With --cache, a
    video asked of before is not decoded and encoded again; a cache of stvg extract knows a video by the end of its path.

    With --serve, videos and sentences are chosen on a page that only this machine sees, at the address that is printed.

    \b
    Examples:
      stvg predict street.mp4 "the man in red turns around" --checkpoint runs/fsm/best.safetensors --cache asked
      stvg predict vidor/video/1006/22.mp4 "a dog runs" --checkpoint runs/fsm/best.safetensors --cache cache/vidstg
      stvg predict --serve --videos vidor/video --checkpoint runs/fsm/best.safetensors
    """
    if serve and (video or out or no_video):
        raise click.UsageError("With --serve, all is asked and shown on the page: leave VIDEO, --out, --no-video out.")
    if not serve and (videos or port is not None):
        raise click.UsageError("--videos and --port belong to --serve.")
    if not serve and not (video and sentences):
        raise click.UsageError(f"Missing argument '{'SENTENCE...' if video else 'VIDEO'}'.")
    if isinstance(cache, Path) and not cache.is_dir():
        writable_folder(cache)
    if video:
        out = writable_folder(out or Path("grounding"))
        for name in ("predictions.jsonl", *(f"{number}.mp4" for number in range(1, len(sentences) + 1))):
            writable_file(out / name)
    from ..stop import Stop
    from .evaluation import load_head
    from .predict import Predictor

    target = choose_device(device)
    head = load_head(checkpoint, target, encoders)
    with TemporaryDirectory(prefix="stvg-") as scratch, Stop() as stop, stop.at_once():
        predictor = Predictor(head, encoders, cache or Path(scratch, "features"), target)
        if video and out:
            answer(predictor, video, sentences, out, no_video)
        else:
            open_page(predictor, Path(scratch), videos, port or 0)


def answer(predictor: Predictor, video: Path, sentences: tuple[str, ...], out: Path, no_video: bool) -> None:
    """Ground, write, and print a table."""
    from .film import write_videos
    from .styles import render

    with Progress("predict", doing="reading the video") as bar, naming_write_errors(out):
        found = predictor.ground(video, sentences)
        boxes = found.write(out)
        bar.doing = "drawing"
        films = [] if no_video else write_videos(video, found.video, found.tubes, out, found.clock)
    rows = [
        [
            sample.sentence.replace("\n", " "),
            "–" if (moment := found.seconds(tube)) is None else "{:.1f}–{:.1f} s".format(*moment),
            f"{tube.start:g}–{tube.end - 1:g}",
            "–" if tube.score is None else f"{tube.score:.2f}",
        ]
        for sample, tube in zip(found.samples, found.tubes, strict=True)
    ]
    say(render(("sentence", "moment", "frames", "score"), rows, "lrrr"), nl=False)
    say(f"boxes → {boxes}" + (f", videos → {films[0]} …" if films else ""))


def open_page(predictor: Predictor, scratch: Path, videos: Path | None, port: int) -> None:
    """Answer what is asked on the page, in this thread, until it is interrupted."""
    from ..errors import UsageError

    try:
        from .serve.desk import Desk
        from .serve.site import serving
    except ImportError:
        raise UsageError("--serve needs Starlette and uvicorn", hint=install("serve")) from None
    if videos and not videos.is_dir():
        raise UsageError(f"{videos} is not a folder of videos", hint="--videos DIR")
    predictor.require_backbone()
    desk = Desk(predictor, scratch / "answers")
    uploads = scratch / "uploads"
    uploads.mkdir()
    with serving(desk, videos, uploads, port) as address:
        say(f"ask at {address}  (Ctrl-C ends it)")
        desk.work()
