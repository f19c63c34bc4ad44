"""Annotated videos: the sentence and a time bar above the picture, and a box during each moment."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...atomic import open_atomic
from ...cache.sampling import slots_in
from ...cache.schema import Video
from ...extract.video.clock import Clock
from ...extract.video.decode import clock_of, read_frames
from ...heads.decision import Moment
from ...untrusted import harmless
from .answers import Answer, Grounding
from .sound import Sound

YELLOW, AMBER, GREY, BLACK = (250, 210, 40), (176, 128, 24), (68, 68, 70), (18, 18, 20)
"""Colours of the likeliest moment, of other moments, of the remaining time, and behind the sentence."""
TICK = Fraction(1, 90_000)
"""Time base of an annotated video, in seconds."""
BAR, LINE = 16, 3
"""Pixels: height of the time bar, thickness of a box."""
SENTENCE_LINES = 2


def write_films(found: Grounding, paths: Sequence[Path]) -> None:
    """Write one video per answer, with its sentence, a bar with its moments, and a box during each moment.

    The picture keeps its size, padded to even numbers at the right and bottom. Frame times and sound are kept. The
    sentence and the bar are above the picture, where player controls do not cover them. A file appears under its name
    when it is complete. Only a few frames are in memory, for videos of any length. Raises VideoError if the file does
    not match the video or does not decode completely.
    """
    video, source = found.video, found.file
    clock = found.clock or clock_of(source, video.frame_count)
    with ExitStack() as stack:
        files = [stack.enter_context(open_atomic(path)) for path in paths]
        films = [
            stack.enter_context(Film(file, answer, video, clock, source))
            for file, answer in zip(files, found.answers, strict=True)
        ]
        at = 0
        wanted = np.arange(video.frame_count)
        for block in read_frames(source, wanted, width=video.width, height=video.height, block=16):
            for film in films:
                film.add(at, block)
            at += len(block)


class Film:
    """An annotated video that is being written."""

    def __init__(self, file: IO[Any], answer: Answer, video: Video, clock: Clock, source: Path) -> None:
        self.answer, self.video, self.clock = answer, video, clock
        self.ticks = np.rint(clock.starts / float(TICK)).astype(int).tolist()
        self.width = video.width + video.width % 2
        self.head = self._head()
        self.height = len(self.head) + video.height + video.height % 2
        self.container = av.open(file, "w", format="mp4")
        rate = Fraction(clock.rate).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        self.stream.codec_context.time_base = TICK
        self.stream.height, self.stream.width, self.stream.pix_fmt = self.height, self.width, "yuv420p"
        self.sound = Sound(source, self.container)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.sound.copy(self.clock.end, last=True)
            self.container.mux(self.stream.encode())
        self.sound.close()
        self.container.close()

    def add(self, start: int, pixels: NDArray[np.uint8]) -> None:
        """Append the frames from ``start`` on, (n, height, width, 3) RGB."""
        frames = np.arange(start, start + len(pixels))
        top, left = len(self.head), 0
        boxes = self.answer.boxes(Moment(start, start + len(pixels), 0))[1]
        colours = [self.colour(frame) for frame in frames.tolist()]
        for frame, picture, box, colour in zip(frames.tolist(), pixels, boxes, colours, strict=True):
            canvas = np.zeros((self.height, self.width, 3), np.uint8)
            canvas[:top] = self.head
            canvas[top : top + self.video.height, left : self.video.width] = picture
            if colour:
                outline(canvas[top : top + self.video.height, : self.video.width], box, colour)
            now = round(frame / self.video.frame_count * (self.width - LINE))
            canvas[top - BAR : top, now : now + LINE] = 255
            painted = av.VideoFrame.from_ndarray(canvas, format="rgb24")
            painted.pts, painted.time_base = self.ticks[frame], TICK
            self.container.mux(self.stream.encode(painted))
        self.sound.copy(float(self.clock.starts[frames[-1]]))

    def colour(self, frame: int) -> tuple[int, int, int] | None:
        """Colour of the box at a frame; None outside the moments."""
        inside = [slots_in(np.array([frame]), (m.start, m.end))[0] for m in self.answer.moments]
        return None if not any(inside) else YELLOW if inside[0] else AMBER

    def _head(self) -> NDArray[np.uint8]:
        """The area above every frame, (rows, width, 3), of even height: the sentence, and the bar with the moments."""
        size = max(11, self.width // 34)
        font = ImageFont.load_default(size)
        letters = max(8, int(self.width / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27) - 2)
        shown = textwrap.wrap(harmless(self.answer.sentence), letters, max_lines=SENTENCE_LINES, placeholder=" …")
        rows = round(1.3 * size)
        height = rows * len(shown) + size + BAR
        picture = Image.new("RGB", (self.width, height + height % 2), BLACK)
        draw = ImageDraw.Draw(picture)
        for row, text in enumerate(shown):
            draw.text((size // 2, size // 3 + row * rows), text, fill=(255, 255, 255), font=font)
        head = np.array(picture)
        head[-BAR:] = GREY
        scale = self.width / self.video.frame_count
        for moment, colour in [*((m, AMBER) for m in self.answer.moments[:0:-1]), (self.answer.moments[0], YELLOW)]:
            head[-BAR:, int(moment.start * scale) : int(np.ceil(moment.end * scale))] = colour
        return head


def outline(picture: NDArray[np.uint8], box: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
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
        picture[rows, columns] = colour
