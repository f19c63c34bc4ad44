"""Decode frames of a video by exact number, upright, as RGB. Raises VideoError for damaged files.

A frame's number is its position, from 0, among the decoder's output pictures, which are in presentation order. Numbers
do not depend on time stamps: rates are not converted, and a variable rate, a late first stamp or descending stamps
change nothing. Pictures that an edit list removes are not counted, as in every FFmpeg-based reader. `clock` computes
the time of each frame.

Pixels are used as stored. A display matrix (rotation, mirroring) is applied, because annotators saw the video upright.
A pixel aspect ratio other than 1:1 is ignored, because annotations count stored pixels.

FFmpeg conceals damage and continues. Here a truncated packet, a decoding error, a concealed picture, and a file that
ends before its own index does, all raise VideoError. Two kinds of damage cannot be detected: data that still decodes
(common with HEVC and VP9), and a clean cut of a container without an index (MPEG-TS, FLV, Matroska), where the last
pictures may then have wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ...cache.sampling import IntArray
from ...errors import VideoError
from .clock import Clock, Stamps, Timing, with_damage
from .streams import opened, why

Pixels = NDArray[np.uint8]

UNTOUCHED = "nothing was padded or guessed"


@dataclass(frozen=True)
class Probe:
    """Facts of a video file."""

    width: int
    height: int
    """Size of the upright picture, in stored pixels."""
    fps: float
    """Average rate, source frames per second: the container's, if it fits frames and duration."""
    frames: int
    """Number of frames that decode; if they were not counted, number of coded pictures that are to be shown."""
    rotation: int
    """Clockwise rotation that makes stored pixels upright: 0, 90, 180 or 270 degrees."""
    codec: str
    clock: Clock
    """Presentation time of each frame."""


def probe(
    path: str | Path, count_frames: bool = True, *, threads: int = 0, passed: Callable[[], None] = lambda: None
) -> Probe:
    """Read the facts of a video file: from all frames (``count_frames``), or from the first frame and all packets.

    ``threads``: decoding threads, 0 for one per core. ``passed``: called after every frame, or packet. Raises
    VideoError if the file is no video, is damaged, or changes its frame size.
    """
    with opened(path, threads) as (container, stream):
        stamps = Stamps(stream)
        packets = stamps.noted(container.demux(stream))
        pictures = _decoded(packets, stream, path, None)
        first = next(pictures, None)
        if first is None:
            raise VideoError(f"{path} has no frame that decodes", found=f"{stream.codec.name} without pictures")
        turn, stored, shown = Orientation.of(first, path), (first.width, first.height), [first.pts]
        if count_frames:
            for number, picture in enumerate(pictures, start=1):
                _require_stored_size(path, picture, stored, number)
                shown.append(picture.pts)
                passed()
        else:
            _pass(packets, passed)
        timing = stamps.timing(shown if count_frames else None)
        width, height = turn.size(first)
        return Probe(width, height, timing.fps, timing.frames, turn.rotation, stream.codec.name, timing.clock)


def timing_of(path: str | Path, passed: Callable[[], None] = lambda: None) -> Timing:
    """Timing from packets, without decoding: packets that would not decode are counted, too. Raises VideoError."""
    with opened(path, 1) as (container, stream):
        stamps = Stamps(stream)
        _pass(stamps.noted(container.demux(stream)), passed)
        return stamps.timing()


def _pass(packets: Iterator[Packet], passed: Callable[[], None]) -> None:
    """Read packets up to the end of the file, or up to the first read error."""
    with suppress(av.error.FFmpegError):  # after an error, fewer frames are counted
        for _ in packets:
            passed()


def clock_of(path: str | Path, frames: int) -> Clock:
    """Presentation times of a video with ``frames`` frames. Raises VideoError if it has another number of frames."""
    found: Timing | Probe = timing_of(path)
    if found.frames != frames:  # packets are not always frames
        found = probe(path)
    if found.frames != frames:
        raise VideoError(
            f"{path} has another number of frames than its cached features",
            expected=f"{frames} frames",
            found=f"{found.frames}",
        )
    return found.clock


def read_frames(
    path: str | Path,
    frames: IntArray,
    *,
    width: int,
    height: int,
    block: int = 64,
    threads: int = 0,
    passed: Callable[[], None] = lambda: None,
) -> Iterator[Pixels]:
    """Decode ``frames``, (n,) ascending and distinct, into new arrays (<= ``block``, height, width, 3) uint8 RGB.

    One sequential pass that stops after the last requested frame; only requested frames are converted to RGB. ``width``
    and ``height`` are the annotation's and must equal the upright picture's. ``threads``: decoding threads, 0 for one
    per core; pixels do not depend on it. ``passed``: called after every decoded frame, requested or not.

    Raises VideoError, possibly after some (valid) blocks, and ValueError if ``frames`` do not ascend.
    """
    wanted = np.asarray(frames, dtype=np.int64)
    if wanted.ndim != 1 or (wanted.size and wanted[0] < 0) or (np.diff(wanted) <= 0).any():
        raise ValueError("frames must be a list of distinct, ascending numbers from 0")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    return _blocks(path, wanted, (width, height), block, threads, passed)


def _blocks(
    path: str | Path, wanted: IntArray, size: tuple[int, int], block: int, threads: int, passed: Callable[[], None]
) -> Iterator[Pixels]:
    if not wanted.size:
        return
    last = int(wanted[-1])
    with opened(path, threads) as (container, stream):
        turn, stored, done, number = None, (0, 0), 0, -1
        for number, picture in enumerate(_decoded(container.demux(stream), stream, path, last)):
            passed()
            if turn is None:
                turn, stored = Orientation.of(picture, path), (picture.width, picture.height)
                _require_size(path, picture, turn, size)
            if number != wanted[done]:
                continue
            _require_stored_size(path, picture, stored, number)
            if done % block == 0:
                out = np.empty((min(block, wanted.size - done), size[1], size[0], 3), dtype=np.uint8)
            out[done % block] = turn.apply(cast(Pixels, picture.to_ndarray(format="rgb24")))
            done += 1
            if done % block == 0 or done == wanted.size:
                yield out
            if done == wanted.size:
                return
        raise VideoError(
            f"{path} ends early",
            asked=f"frames up to {last}",
            found=f"{number + 1} frames decode",
            effect=UNTOUCHED,
            hint="fetch the file again, or compare it with the annotation's frame count",
        )


def _require_stored_size(path: str | Path, picture: VideoFrame, stored: tuple[int, int], number: int) -> None:
    if (picture.width, picture.height) != stored:
        raise VideoError(
            f"{path} changes its size at frame {number}",
            expected=f"{stored[0]}x{stored[1]}",
            found=f"{picture.width}x{picture.height}",
        )


def _require_size(path: str | Path, picture: VideoFrame, turn: Orientation, size: tuple[int, int]) -> None:
    width, height = turn.size(picture)
    if (width, height) == size:
        return
    note = f" ({picture.width}x{picture.height} stored, turned {turn.rotation} degrees clockwise by its metadata)"
    raise VideoError(
        f"{path} has another size than its annotation says",
        expected=f"{size[0]}x{size[1]}",
        found=f"{width}x{height}" + (note if turn.rotation else ""),
        effect="boxes would land on other pixels; the video was not used",
    )


def _decoded(coded: Iterable[Packet], stream: VideoStream, path: str | Path, last: int | None) -> Iterator[VideoFrame]:
    """Every picture in presentation order. Raises VideoError at the first damage that FFmpeg or the index reveals."""
    indexed = len(stream.index_entries)
    packets = count = 0
    try:
        for packet, damaged in with_damage(coded, stream):
            if damaged:
                raise _damaged(path, stream, count, last, "the data is cut short")
            if packet.size:
                packets += 1
            elif packets < (promised := indexed if indexed >= packets else stream.frames):
                # An index with fewer entries than pictures is sparse, or was lost with the end of the file; then only
                # the header's count can be used (0: not stated). Pictures still buffered in the decoder are discarded:
                # a missing picture may belong before them.
                raise _damaged(path, stream, count, last, f"the file ends after {packets} of {promised} coded pictures")
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise _damaged(path, stream, count, last, f"frame {count} is damaged")
                yield picture
                count += 1
    except (av.error.FFmpegError, ValueError) as error:
        raise _damaged(path, stream, count, last, why(error)) from None


def _damaged(path: str | Path, stream: VideoStream, count: int, last: int | None, what: str) -> VideoError:
    return VideoError(
        f"{path} is damaged or cut short",
        asked=None if last is None else f"frames up to {last}",
        expected=f"{stream.frames} frames, as its header says" if stream.frames else None,
        found=f"{count} frames decode, then: {what}",
        effect=UNTOUCHED,
        hint="fetch the file again",
    )


@dataclass(frozen=True)
class Orientation:
    """The steps that make stored pixels upright: transpose, then flip rows, then flip columns."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, picture: VideoFrame, path: str | Path) -> Orientation:
        """Read the display matrix [[a, b], [c, d]]: stored (x, y) is shown at (a x + c y, b x + d y), up to a shift."""
        side_data = cast(Mapping[str, Any], picture.side_data)  # keyed by name; PyAV's type lists only two names
        if "DISPLAYMATRIX" not in side_data:
            return cls()
        matrix = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), dtype="=i4").reshape(3, 3)
        a, b, c, d = (int(n) for n in matrix[:2, :2].ravel())
        if b == c == 0 and a and d:
            return cls(False, d < 0, a < 0)
        if a == d == 0 and b and c:
            return cls(True, b < 0, c < 0)
        raise VideoError(
            f"{path} is rotated by an angle that is not a multiple of 90 degrees",
            expected="a display matrix of rotations by 90 degrees and mirroring",
            found=f"[[{a}, {b}], [{c}, {d}]] / 65536",
        )

    @property
    def rotation(self) -> int:
        """Degrees clockwise; a mirrored picture is treated as rotated, then flipped left to right."""
        if self.transpose:
            return 270 if self.flip_rows else 90
        return 180 if self.flip_rows else 0

    def size(self, picture: VideoFrame) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return (picture.height, picture.width) if self.transpose else (picture.width, picture.height)

    def apply(self, pixels: Pixels) -> Pixels:
        """(stored height, stored width, 3) → (height, width, 3), as a view."""
        upright = pixels.swapaxes(0, 1) if self.transpose else pixels
        return upright[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
