"""Choose the video stream of a file: the default one of those with moving pictures, never a cover or a preview."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from ...errors import VideoError

# FFmpeg also opens text files, pictures and playlists (which refer to other files and hosts). Only these are allowed.
CONTAINERS = ("mov", "mp4", "3gp", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf")

STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
PICTURES = {"mjpeg", "png", "gif", "bmp", "webp", "tiff", "jpeg2000", "jpegls"}
"""Codecs of still pictures; a stream with one of them may be a cover that is not marked as such."""
PREVIEW = 4
"""A track is a preview of a later track that has at least this many times its pixels."""


@contextmanager
def opened(path: str | Path, threads: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a regular file and choose its video stream; damaged pictures are flagged. Raises VideoError."""
    with _container(path) as container:
        stream = _chosen(container, path)
        if stream.codec_context is None:
            raise VideoError(f"{path} cannot be decoded", found="a codec that is unknown, or a damaged header")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # Output damaged pictures, flagged: dropping them would shift the number of every later frame.
        # ("err_detect": "explode" found no more damage, and refused intact clips whose edit list hides such pictures.)
        stream.codec_context.options = {"flags": "+output_corrupt"}
        yield container, stream


def why(error: Exception) -> str:
    """FFmpeg's message for an error."""
    return getattr(error, "strerror", None) or str(error)


def _container(path: str | Path) -> InputContainer:
    file = Path(path)
    if not file.is_file():
        raise VideoError(f"{path} " + ("is not a regular file" if file.exists() else "does not exist"))
    if not file.stat().st_size:
        raise VideoError(f"{path} is empty", found="0 bytes", hint="fetch the file again")
    only_video = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    try:
        # An absolute path: FFmpeg could read a relative name as a protocol.
        return av.open(os.path.abspath(path), options=only_video)
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path} is not a video that can be opened",
            expected=f"a complete file in one of the containers {', '.join(CONTAINERS)}",
            found="something else (text, a picture, a playlist)"
            if isinstance(error, av.error.ArgumentError)
            else why(error),
            hint="fetch the file again",
        ) from None


def _chosen(container: InputContainer, path: str | Path) -> VideoStream:
    """FFmpeg's order of preference: the default track, then the larger one, then the first."""
    streams = [s for s in container.streams.video if not s.disposition & STILL]
    if len(streams) > 1 or any(s.codec_context is not None and s.codec.name in PICTURES for s in streams):
        moving = _moving(path, {s.index for s in streams})
        streams = [s for s in streams if s.index in moving]
    if not streams:
        raise VideoError(f"{path} has no moving picture", found="sound, text or still pictures only")
    main = [s for i, s in enumerate(streams) if not any(_pixels(s) * PREVIEW <= _pixels(o) for o in streams[i + 1 :])]
    return max(main, key=lambda s: (bool(s.disposition & Disposition.default), _pixels(s)))


def _pixels(stream: VideoStream) -> int:
    """Pixels of one picture; 0 if the codec is unknown."""
    return stream.codec_context.width * stream.codec_context.height if stream.codec_context else 0


def _moving(path: str | Path, candidates: set[int]) -> set[int]:
    """The candidates that have more than one picture. Reads until all of them have, or to the end of the file."""
    pictures: Counter[int] = Counter()
    with _container(path) as container:
        try:
            for packet in container.demux(*(container.streams[i] for i in sorted(candidates))):
                if packet.size:
                    pictures[packet.stream_index] += 1
                if all(pictures[i] > 1 for i in candidates):
                    break
        except (av.error.FFmpegError, ValueError):  # decoding the chosen stream meets the same error and reports it
            pass
    return {i for i in candidates if pictures[i] > 1}
