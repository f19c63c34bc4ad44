"""Selection of the samples that get pictures in a report, and small pictures of their frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from ...cache.sampling import IntArray, slots_in, thin
from ...cache.schema import Sample, Video
from ...errors import VideoError
from ...extract.video.clock import Clock
from ...extract.video.decode import Pixels, clock_of, read_frames
from ...extract.video.video_files import find_video_files
from ..compare import Comparison
from ..metrics import Id, SampleScore

WIDTH = 320
QUALITY = 70
HALF = 12
"""Number of pictures of a sample that are evenly spread over its clip, and again over the frames inside its moments."""

Pictures = dict[str, dict[int, bytes]]
"""WebP by source frame, per video."""


def choose(scores: Sequence[SampleScore], count: int, against: Sequence[Comparison] = ()) -> list[Id]:
    """Select ``count`` samples, in turn from the best, the median, the worst, and the most changed between runs."""
    ranked = [s.sample_id for s in sorted(scores, key=lambda s: (-s.vIoU, -s.tIoU))]
    middle = len(ranked) // 2
    around = sorted(range(len(ranked)), key=lambda i: (abs(i - middle), i))
    orders = [ranked, [ranked[i] for i in around], ranked[::-1]]
    orders += [[after.sample_id for _, after in other.changed] for other in against]
    turns = (i for turn in zip_longest(*orders) for i in turn if i is not None)
    return list(dict.fromkeys(turns))[:count]


def pictured_frames(frames: IntArray, *spans: tuple[float, float]) -> IntArray:
    """The frames of a clip (T,) that get a picture. ``spans``: the annotated and the predicted moment."""
    inside = np.logical_or.reduce([slots_in(frames, span) for span in spans])
    return np.union1d(thin(frames, HALF), thin(frames[inside], HALF))


@dataclass(frozen=True)
class Taken:
    """Results of reading the videos of a report, by video id."""

    pictures: Pictures = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    """Display times of the frames, for every video with pictures."""
    faults: dict[str, VideoError] = field(default_factory=dict)
    """Videos that could not be read. They have no pictures."""


def take_pictures(
    chosen: Sequence[tuple[Sample, IntArray]],
    videos: Path,
    dataset: str = "json",
    tick: Callable[[], None] | None = None,
) -> Taken:
    """Pictures of source frames of samples. A frame that several samples share is stored once.

    ``dataset``: its rules assign files to videos. Raises UsageError if ``videos`` is not a folder, or if it holds
    several files of one name.
    """
    wanted: dict[str, list[IntArray]] = {}
    known: dict[str, Video] = {}
    for sample, frames in chosen:
        known[sample.video.video_id] = sample.video
        wanted.setdefault(sample.video.video_id, []).append(frames)
    files = find_video_files(known.values(), videos, dataset)
    taken = Taken()
    for video_id, video in known.items():
        frames = np.unique(np.concatenate(wanted[video_id]))
        try:
            if isinstance(file := files[video_id], VideoError):
                raise file
            blocks = read_frames(file, frames, width=video.width, height=video.height, block=8)
            small = [shrink(pixels) for block in blocks for pixels in block]
            taken.clocks[video_id] = clock_of(file, video.frame_count)
            taken.pictures[video_id] = dict(zip(frames.tolist(), small, strict=True))
        except VideoError as fault:
            taken.faults[video_id] = fault
        if tick:
            tick()
    return taken


def shrink(pixels: Pixels) -> bytes:
    """One frame (height, width, 3) as WebP, at most WIDTH pixels wide."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    if width > WIDTH:
        picture = picture.resize((WIDTH, max(1, round(height * WIDTH / width))), reducing_gap=2)
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=QUALITY)
    return out.getvalue()
