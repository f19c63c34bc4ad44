"""Compare a video file with its annotation: the rules of `stvg dataset check` and of `stvg extract`.

Annotations count frames. If the size or the number of frames differs, boxes or frame numbers are wrong for this file,
and the file is refused. If these agree and only the rate differs, frame numbers are right, but the time between sampled
frames is not the requested one. A differing rate is a fault, with two exceptions, which are warnings: the annotated
rate is an assumption of the dataset; or frames are unevenly spaced and the annotated rate fits most of the video.
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
    """The file decodes, but differs from its annotation."""


def rate_is_assumed(dataset: str) -> bool:
    """True if the dataset's annotations state no frame rates."""
    return dataset in DATASETS and DATASETS[dataset].rate_is_assumed


def examine(
    file: Path, video: Video, assumed: bool, whole: bool, threads: int = 1, passed: Callable[[], None] = lambda: None
) -> list[str]:
    """Compare a file with its annotation; returns warnings, raises VideoError.

    ``whole``: decode every frame. Otherwise packets are counted, and frames are decoded only if the count differs from
    the annotated one, because packets are not always frames. The frame size is then checked by the caller that decodes.
    ``passed`` is called after every packet or decoded frame.
    """
    if not whole and (timing := timing_of(file, passed)).frames == video.frame_count:
        return rate_warnings(file, video, timing, assumed)
    found = probe(file, threads=threads, passed=passed)
    require_same_pictures(file, video, found)
    return rate_warnings(file, video, found, assumed)


def require_same_pictures(file: Path, video: Video, found: Probe) -> None:
    """Raises DisagreementError if the size or the number of frames differs."""
    if (found.width, found.height, found.frames) == (video.width, video.height, video.frame_count):
        return
    turned = f", turned {found.rotation} degrees by its metadata" if found.rotation else ""
    another_rate = not same(found.frames, video.frame_count) and same(found.clock.end, video.frame_count / video.fps)
    raise DisagreementError(
        f"{file} differs from its annotation",
        expected=f"{video.width}x{video.height}, {video.frame_count} frames",
        found=f"{found.width}x{found.height}{turned}, {found.frames} frames",
        effect="annotated frame numbers or boxes would be wrong; the video cannot be used",
        hint=f"the duration agrees, so it was re-encoded at {found.fps:g} frames per second instead of {video.fps:g}: "
        "use the original"
        if another_rate
        else "use the file that was annotated",
    )


def rate_warnings(file: Path, video: Video, found: Timing | Probe, assumed: bool) -> list[str]:
    """Compare the rates of a file whose frame count agrees. Returns warnings, or raises DisagreementError."""
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
        effect="the time between sampled frames would not be the requested one; the video cannot be used",
        hint="if the annotated frame numbers are right for this file, correct the annotated rate",
    )
