"""``stvg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..cache.options import FOLDER, choose_device, device_option, encoder_options


@click.command(short_help="Ground sentences in a video of your own.")
@click.argument("video", type=FOLDER)
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE...")
@click.option("--checkpoint", type=FOLDER, required=True, metavar="FILE", help="A head of stvg train-head.")
@encoder_options
@click.option(
    "--cache",
    type=FOLDER,
    metavar="DIR",
    help="Read the video's features here: a cache of stvg extract, or a folder that keeps those of every video asked of.",
)
@click.option(
    "--out", type=FOLDER, default=Path("grounding"), show_default=True, help="Folder for predictions.jsonl and 1.mp4 …"
)
@click.option("--no-video", is_flag=True, help="Write no annotated videos.")
@device_option
def predict(
    video: Path,
    sentences: tuple[str, ...],
    checkpoint: Path,
    cache: Path | None,
    out: Path,
    no_video: bool,
    device: str | None,
    **encoders: Any,
) -> None:
    """Find when and where in VIDEO each SENTENCE happens: moments and scores here, boxes in predictions.jsonl, and for each
    of them a video with the box drawn.

    The encoders must be those the head was trained on: name their weights as you did for stvg extract. With --cache, a
    video asked of before is not decoded and encoded again; a cache of stvg extract knows a video by the end of its path.

    \b
    Examples:
      stvg predict street.mp4 "the man in red turns around" --checkpoint runs/fsm/best.safetensors --cache asked
      stvg predict vidor/video/1006/22.mp4 "a dog runs" --checkpoint runs/fsm/best.safetensors --cache cache/vidstg
    """
    import tempfile

    from .evaluation import load_head
    from .film import write_videos
    from .predict import Predictor
    from .predictions import write_predictions
    from .tables import harmless, render

    target = choose_device(device)
    head = load_head(checkpoint, target, encoders["tokenizer"])
    with tempfile.TemporaryDirectory(prefix="stvg-") as scratch:
        found = Predictor(head, encoders, cache or Path(scratch), target).ground(video, sentences)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.jsonl", found.tubes, {s.sample_id: s for s in found.samples})
    films = [] if no_video else write_videos(video, found.video, found.tubes, out)
    fps = found.video.fps
    rows = [
        [
            harmless(sample.sentence).replace("\n", " "),
            f"{tube.start / fps:.1f}–{tube.end / fps:.1f} s",
            f"{tube.start:g}–{tube.end - 1:g}",
            "–" if tube.score is None else f"{tube.score:.2f}",
        ]
        for sample, tube in zip(found.samples, found.tubes, strict=True)
    ]
    click.echo(render(("sentence", "moment", "frames", "score"), rows, "lrrr"), nl=False)
    click.echo(f"boxes → {out / 'predictions.jsonl'}" + (f", videos → {films[0]} …" if films else ""))
