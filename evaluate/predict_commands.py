"""``stvg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..cache.options import FOLDER, choose_device, device_option, encoder_options, say


@click.command(short_help="Ground sentences in a video of your own.")
@click.argument("video", type=FOLDER)
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE...")
@click.option("--checkpoint", type=FOLDER, required=True, metavar="FILE", help="A head of stvg train-head.")
@encoder_options
@click.option(
    "--out", type=FOLDER, default=Path("grounding"), show_default=True, help="Folder for predictions.jsonl and 1.mp4 …"
)
@click.option("--no-video", is_flag=True, help="Write no annotated videos.")
@device_option
def predict(
    video: Path,
    sentences: tuple[str, ...],
    checkpoint: Path,
    out: Path,
    no_video: bool,
    device: str | None,
    **encoders: Any,
) -> None:
    """Find when and where in VIDEO each SENTENCE happens: moments and scores here, boxes in predictions.jsonl, and for each
    of them a video with the box drawn.

    The encoders must be those the head was trained on: name their weights as you did for stvg extract.

    \b
    Example: stvg predict street.mp4 "the man in red turns around" --checkpoint runs/fsm/best.safetensors
    """
    import tempfile

    from .evaluation import load_head
    from .predict import ground, write_videos
    from .predictions import write_predictions
    from .tables import render

    target = choose_device(device)
    head = load_head(checkpoint, target, encoders["tokenizer"])
    with tempfile.TemporaryDirectory(prefix="stvg-") as scratch:
        found = ground(head, video, sentences, encoders, Path(scratch), target)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / "predictions.jsonl", found.tubes, {s.sample_id: s for s in found.samples})
    films = [] if no_video else write_videos(video, found, out)
    fps = found.samples[0].video.fps
    rows = [
        [
            sample.sentence.replace("\n", " "),
            f"{tube.start / fps:.1f}–{tube.end / fps:.1f} s",
            f"{tube.start:g}–{tube.end - 1:g}",
            "–" if tube.score is None else f"{tube.score:.2f}",
        ]
        for sample, tube in zip(found.samples, found.tubes, strict=True)
    ]
    say(render(("sentence", "moment", "frames", "score"), rows, "lrrr"), nl=False)
    say(f"boxes → {out / 'predictions.jsonl'}" + (f", videos → {films[0]} …" if films else ""))
