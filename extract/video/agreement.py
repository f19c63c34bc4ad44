"""Whether a video file is the one its annotation describes: the rules of `stvg dataset check` and of `stvg extract`.

Annotations count frames. Another size or another number of frames means that boxes or frame numbers point elsewhere, so
the file is refused. When these agree and only the rate differs, annotated frames are the right ones, and those looked at
are further apart, or closer, than asked for; a rate that the annotation does not state but assumes is no fault then, nor
is one that fits most of a video whose frames are not evenly spaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...cache.schema import Video
from ...errors import VideoError
from ..datasets.table import DATASETS
from .clock import Timing, same
from .decode import Probe, probe, timing_of


class DisagreementError(VideoError):
    """A file decodes, but is not what its annotation describes."""


def rate_is_assumed(dataset: str) -> bool:
    """Whether the rates of a dataset's videos are not among its annotations."""
    return dataset in DATASETS and DATASETS[dataset].rate_is_assumed


def examine(
    file: Path, video: Video, assumed: bool, whole: bool, threads: int = 1, passed: Callable[[], None] = lambda: None
) -> list[str]:
    """Compare a file with its annotation; returns warnings, raises VideoError.

    ``whole``: decode every frame. Otherwise frames are counted without decoding them, and decoded only if their number is
    not the annotated one, since packets are not always frames; their size is left to who decodes them. ``passed`` is
    called after every packet or picture.
    """
    if not whole and (timing := timing_of(file, passed)).frames == video.frame_count:
        return rate_warnings(file, video, timing, assumed)
    found = probe(file, threads=threads, passed=passed)
    require_same_pictures(file, video, found)
    return rate_warnings(file, video, found, assumed)


def require_same_pictures(file: Path, video: Video, found: Probe) -> None:
    """Refuse another size or number of frames: DisagreementError."""
    if (found.width, found.height, found.frames) == (video.width, video.height, video.frame_count):
        return
    turned = f", turned {found.rotation} degrees by its metadata" if found.rotation else ""
    another_rate = not same(found.frames, video.frame_count) and same(found.clock.end, video.frame_count / video.fps)
    raise DisagreementError(
        f"{file} differs from its annotation",
        expected=f"{video.width}x{video.height}, {video.frame_count} frames",
        found=f"{found.width}x{found.height}{turned}, {found.frames} frames",
        effect="annotated frames or boxes would be other ones; the video cannot be used",
        hint=f"it lasts as long, so it was encoded again, at {found.fps:g} frames per second in place of {video.fps:g}: "
        "use the original"
        if another_rate
        else "use the file that was annotated",
    )


def rate_warnings(file: Path, video: Video, found: Timing | Probe, assumed: bool) -> list[str]:
    """Compare rates where frames agree, which is to compare durations. Returns warnings, or raises DisagreementError."""
    if found.clock.fits(video.fps):
        return []
    plays = f"{video.path} plays at {found.fps:.4g} frames per second"
    if assumed:
        return [f"{plays}; {video.fps:g} are assumed (img_num / 20)"]
    if same(video.fps, 1 / found.clock.step):
        return [f"{plays} on average, unevenly; the annotated {video.fps:g} fit most of it"]
    raise DisagreementError(
        f"{file} plays at another rate than its annotation says",
        expected=f"{video.fps:g} frames per second, {video.frame_count / video.fps:.4g} s",
        found=f"{found.fps:.4g}, {found.clock.end:.4g} s",
        effect="sampled frames would be further apart, or closer, than asked for; the video cannot be used",
        hint="correct the annotation's rate if its frame numbers are those of this file",
    )
