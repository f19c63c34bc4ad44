"""Which of several video tracks is the video: the default one that moves, never a cover, a preview or thumbnails."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from stvg.errors import VideoError
from stvg.extract.video.decode import probe, read_frames

Track = tuple[str, tuple[int, int], int, Disposition | None]
"""Codec, size, number of pictures, and what it is for."""
MAIN: Track = ("libx264", (128, 96), 20, None)
DEFAULT: Track = ("libx264", (128, 96), 20, Disposition.default)


def write_tracks(path: Path, *tracks: Track) -> Path:
    """Pictures of a track have the brightness 40 x its number + 40."""
    with av.open(path, "w") as out:
        streams = []
        for codec, size, _, purpose in tracks:
            stream = out.add_stream(codec, rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            if purpose is not None:
                stream.disposition = purpose
            streams.append(stream)
        for number, (stream, (_, (width, height), count, _)) in enumerate(zip(streams, tracks, strict=True)):
            for i in range(count):
                pixels = np.full((height, width, 3), 40 * number + 40, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    ("tracks", "chosen"),
    [
        ([("mjpeg", (256, 192), 1, None), MAIN], 1),
        ([("mjpeg", (256, 192), 1, Disposition.default), DEFAULT], 1),
        ([("libx264", (256, 192), 1, Disposition.default), MAIN], 1),
        ([("libx264", (64, 48), 20, None), MAIN], 1),
        ([("libx264", (64, 48), 20, Disposition.default), MAIN], 1),
        ([MAIN, DEFAULT], 1),
        ([DEFAULT, ("libx264", (160, 96), 20, Disposition(0))], 0),
        ([DEFAULT, DEFAULT], 0),
        ([MAIN, ("mjpeg", (256, 192), 1, None)], 0),
    ],
    ids=[
        "cover",
        "default cover",
        "one frame",
        "preview",
        "default preview",
        "second",
        "first",
        "equals",
        "cover last",
    ],
)
def test_the_default_moving_track_is_the_video(tracks: list[Track], chosen: int, suffix: str, tmp_path: Path) -> None:
    path = write_tracks(tmp_path / f"a.{suffix}", *tracks)
    found = probe(path)
    assert (found.width, found.height, found.frames) == (128, 96, 20)
    (pixels,) = read_frames(path, np.arange(20), width=128, height=96)
    assert pixels.mean() == pytest.approx(40 * chosen + 40, abs=4)


def test_pictures_that_are_marked_as_thumbnails_are_not_the_video(tmp_path: Path) -> None:
    cover = ("mjpeg", (256, 192), 1, Disposition.attached_pic)
    assert probe(write_tracks(tmp_path / "a.mp4", cover, MAIN)).frames == 20
    assert probe(write_tracks(tmp_path / "b.mp4", MAIN, cover)).frames == 20


def test_a_video_of_still_pictures_codecs_is_one_if_it_moves(tmp_path: Path) -> None:
    assert probe(write_tracks(tmp_path / "a.avi", ("mjpeg", (64, 48), 20, None))).frames == 20
    with pytest.raises(VideoError, match="no moving picture"):
        probe(write_tracks(tmp_path / "b.mkv", ("mjpeg", (64, 48), 1, None)))
