"""One video and some sentences → tubes: the file is decoded, its features extracted, and the head asked; and as a video."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from ..cache.atomic import open_atomic
from ..cache.errors import UsageError, VideoError
from ..cache.index import Cache
from ..cache.sampling import interpolate_boxes, slots_in
from ..cache.schema import Sample, Tube, Video
from ..extract.backbone import build_backbone
from ..extract.decode import probe, read_frames
from ..extract.runner import Options, extract, make_recipe
from ..extract.text import build_text_encoder
from .evaluation import Head, open_split, require_features, tubes_of

YELLOW, GREY = (250, 210, 40), (205, 205, 210)
BAR, LINE = 16, 3
"""Pixels: height of the time bar below the picture, thickness of a box."""
SPLIT = "asked"


@dataclass(frozen=True)
class Grounding:
    """What was asked of a video, and the answers in the same order."""

    samples: list[Sample]
    tubes: list[Tube]


def ground(
    head: Head, video: Path, sentences: Sequence[str], encoders: Mapping[str, Any], scratch: Path, device: torch.device
) -> Grounding:
    """Find what every sentence means. ``encoders``: weights, tokenizer and seed as for `stvg extract`.

    ``scratch``: an empty folder for the features. Raises VideoError for a file that does not decode whole, UsageError for
    an empty sentence, CacheError when the encoders are not those the head was trained on.
    """
    if empty := [number for number, sentence in enumerate(sentences, start=1) if not sentence.strip()]:
        raise UsageError(f"sentence {empty[0]} is empty", expected="what to look for, in words")
    recipe = head.recipe
    facts = probe(video)
    if facts.fps < recipe.fps:
        raise VideoError(
            f"{video} has too few frames a second",
            expected=f"at least the head's {recipe.fps:g}",
            found=f"{facts.fps:g}",
        )
    known = Video(
        hashlib.sha256(video.name.encode()).hexdigest()[:16],
        video.name,
        facts.width,
        facts.height,
        facts.fps,
        facts.frames,
    )
    samples = [asked(number, known, sentence) for number, sentence in enumerate(sentences, start=1)]
    backbone = build_backbone(recipe.backbone, encoders["backbone_weights"], encoders["weights_seed"])
    text = build_text_encoder(
        recipe.text_encoder, encoders["text_weights"], encoders["tokenizer"], encoders["weights_seed"]
    )
    chosen = {name: getattr(recipe, name) for name in ("fps", "resolution", "max_side", "dtype", "amp")}
    chosen["levels"] = "full" if head.mode == "last-stage" else "c5"
    wanted = make_recipe("json", hashlib.sha256().hexdigest(), backbone, text, chosen)
    require_features(head, wanted, "what the encoders named here would extract")
    files: dict[str, Path | None] = {known.video_id: video}
    extract(samples, files, scratch, wanted, backbone, text, options=Options(device, strict=True))
    data = open_split(head, Cache.open(scratch), SPLIT, video.parent)
    tubes = tubes_of(head.model, data, head.batch_size, device)
    return Grounding(samples, [tubes[s.sample_id] for s in samples])


def asked(number: int, video: Video, sentence: str) -> Sample:
    """A sample without an annotation: its moment is empty, and so are its boxes."""
    return Sample(number, video, sentence, "asked", SPLIT, (0, video.frame_count), (0, 0), np.empty((0, 4)), "")


def write_videos(video: Path, found: Grounding, out: Path) -> list[Path]:
    """The video once for every sentence, ``out``/1.mp4 and on: the box while it lasts, and where in time it is.

    Size (made even at the right and bottom) and rate are the original's; there is no sound. A file appears under its name
    once it is whole. However long the video, a few frames are in memory.
    """
    facts = found.samples[0].video
    paths = [out / f"{number}.mp4" for number in range(1, len(found.tubes) + 1)]
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomic(path)) for path in paths]
        films = [stack.enter_context(Film(file, tube, facts)) for file, tube in zip(files, found.tubes, strict=True)]
        wanted = np.arange(facts.frame_count)
        at = 0
        for block in read_frames(video, wanted, width=facts.width, height=facts.height, block=16):
            for film in films:
                film.add(at, block)
            at += len(block)
    return paths


class Film:
    """An annotated video under way."""

    def __init__(self, file: IO[Any], tube: Tube, facts: Video) -> None:
        self.tube, self.facts = tube, facts
        self.height, self.width = facts.height + facts.height % 2 + BAR, facts.width + facts.width % 2
        self.container = av.open(file, "w", format="mp4")
        rate = Fraction(facts.fps).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        self.stream.height, self.stream.width, self.stream.pix_fmt = self.height, self.width, "yuv420p"
        self.bar = self._bar()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def add(self, start: int, pixels: NDArray[np.uint8]) -> None:
        """Frames ``start`` and on, (n, height, width, 3) RGB."""
        frames = np.arange(start, start + len(pixels))
        boxes = interpolate_boxes(self.tube.frames, self.tube.boxes, frames)
        shown = slots_in(frames, (self.tube.start, self.tube.end))
        for frame, picture, box, inside in zip(frames.tolist(), pixels, boxes, shown, strict=True):
            canvas = np.zeros((self.height, self.width, 3), np.uint8)
            canvas[: self.facts.height, : self.facts.width] = picture
            if inside:
                outline(canvas[: self.facts.height, : self.facts.width], box)
            canvas[-BAR:] = self.bar
            now = round(frame / self.facts.frame_count * (self.width - LINE))
            canvas[-BAR:, now : now + LINE] = 255
            self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))

    def _bar(self) -> NDArray[np.uint8]:
        bar = np.full((BAR, self.width, 3), GREY, np.uint8) // 3
        scale = self.width / self.facts.frame_count
        bar[:, int(self.tube.start * scale) : int(np.ceil(self.tube.end * scale))] = YELLOW
        return bar


def outline(picture: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
    """Draw a box, xyxy in pixels, into a picture."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = np.rint(box).astype(int)
    x1, x2, y1, y2 = max(x1, 0), min(x2, width - 1), max(y1, 0), min(y2, height - 1)
    for rows, columns in (
        (slice(y1, y1 + LINE), slice(x1, x2 + 1)),
        (slice(max(y2 - LINE + 1, 0), y2 + 1), slice(x1, x2 + 1)),
        (slice(y1, y2 + 1), slice(x1, x1 + LINE)),
        (slice(y1, y2 + 1), slice(max(x2 - LINE + 1, 0), x2 + 1)),
    ):
        picture[rows, columns] = YELLOW
