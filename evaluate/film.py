"""A video with the box of a tube drawn while it lasts, and a bar below that says where in time it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from numpy.typing import NDArray

from ..atomic import open_atomic
from ..cache.sampling import interpolate_boxes, slots_in
from ..cache.schema import Tube, Video
from ..extract.video.clock import Clock
from ..extract.video.decode import clock_of, read_frames

YELLOW, GREY = (250, 210, 40), (205, 205, 210)
TICK = Fraction(1, 90_000)
"""Seconds: what times in an annotated video are multiples of."""
BAR, LINE = 16, 3
"""Pixels: height of the time bar below the picture, thickness of a box."""


def write_videos(file: Path, video: Video, tubes: Sequence[Tube], out: Path, clock: Clock | None = None) -> list[Path]:
    """``file`` once for every tube, ``out``/1.mp4 and on: the box while it lasts, and where in time it is.

    Size (made even at the right and bottom) is the original's, and so is the time every frame is shown, which ``clock``
    tells if it is known already; there is no sound. A file appears under its name once it is whole. However long the
    video, a few frames are in memory. Raises VideoError for a file that is not as ``video`` says, or does not decode whole.
    """
    clock = clock or clock_of(file, video.frame_count)
    paths = [out / f"{number}.mp4" for number in range(1, len(tubes) + 1)]
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomic(path)) for path in paths]
        films = [stack.enter_context(Film(file, tube, video, clock)) for file, tube in zip(files, tubes, strict=True)]
        at = 0
        for block in read_frames(file, np.arange(video.frame_count), width=video.width, height=video.height, block=16):
            for film in films:
                film.add(at, block)
            at += len(block)
    return paths


class Film:
    """An annotated video under way."""

    def __init__(self, file: IO[Any], tube: Tube, video: Video, clock: Clock) -> None:
        self.tube, self.video = tube, video
        self.ticks = np.rint(clock.starts / float(TICK)).astype(int).tolist()
        self.height, self.width = video.height + video.height % 2 + BAR, video.width + video.width % 2
        self.container = av.open(file, "w", format="mp4")
        rate = Fraction(clock.rate).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        self.stream.codec_context.time_base = TICK
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
            canvas[: self.video.height, : self.video.width] = picture
            if inside:
                outline(canvas[: self.video.height, : self.video.width], box)
            canvas[-BAR:] = self.bar
            now = round(frame / self.video.frame_count * (self.width - LINE))
            canvas[-BAR:, now : now + LINE] = 255
            painted = av.VideoFrame.from_ndarray(canvas, format="rgb24")
            painted.pts, painted.time_base = self.ticks[frame], TICK
            self.container.mux(self.stream.encode(painted))

    def _bar(self) -> NDArray[np.uint8]:
        bar = np.full((BAR, self.width, 3), GREY, np.uint8) // 3
        scale = self.width / self.video.frame_count
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
