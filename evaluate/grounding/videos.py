"""Match a file with a video of a cache, and read the facts of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np

from ...cache.annotations import AnnotationSet
from ...cache.index import Cache
from ...cache.sampling import video_grid
from ...cache.schema import Video
from ...cache.set_files import read_set, set_names
from ...errors import CacheError, VideoError
from ...extract.video.agreement import rate_is_assumed
from ...extract.video.clock import Clock
from ...extract.video.decode import clock_of, probe

HINT = "without --cache, or with a folder of its own, the video is extracted now"


def content_of(file: Path) -> str:
    """Identifies the content of a file: the first 16 hex digits of its SHA-256."""
    if not file.is_file():  # reading a pipe or device may never end
        raise VideoError(f"{file} is not a file")
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None


def video_of(file: Path, video_id: str, fps: float) -> Video:
    """The facts of a file; every frame of it is decoded. ``fps``: the sampling rate of a head.

    The frame rate is the average rate. If pauses make it lower than ``fps``, the rate of most frames is used. Raises
    VideoError if that is lower, too.
    """
    facts = probe(file)
    rate = facts.fps if facts.fps >= fps else 1 / facts.clock.step
    if rate < fps:
        raise VideoError(
            f"{file} has too few frames a second", expected=f"at least the head's {fps:g}", found=f"{rate:.4g}"
        )
    return Video(video_id, file.name, facts.width, facts.height, rate, facts.frames)


def clock_when_known(cache: Cache, video: Video, file: Path) -> Clock | None:
    """Display times of a video's frames: from its file, else from its annotated rate; None if that rate is assumed.

    Raises VideoError if the file has another number of frames than the video.
    """
    if file.exists():
        return clock_of(file, video.frame_count)
    return None if rate_is_assumed(cache.annotations.dataset) else Clock.steady(video.frame_count, video.fps)


def find_video(cache: Cache, file: Path) -> tuple[AnnotationSet, Video]:
    """The video of an extraction's cache that a file holds, and an annotation set that names it.

    The path of the file must end with the annotation's path. Raises CacheError if no video matches, if it was skipped,
    or if several match.
    """
    holders: dict[str, AnnotationSet] = {}
    paths: dict[str, str] = {}
    for name in set_names(cache.path):
        table = (annotations := read_set(cache.path, name)).samples
        for video_id, rows in table.rows_of_videos.items():
            if video_id not in annotations.files or cache.seen_through(annotations).means(video_id):
                holders[video_id], paths[video_id] = annotations, table.video(rows[0]).path
    ours, ends = file.absolute().parts, {video_id: PurePosixPath(path).parts for video_id, path in paths.items()}
    known = [v for v, end in ends.items() if ours[-len(end) :] == end and cache.unit_keys(v)]
    if len(known) != 1:
        alike = known or [v for v, end in ends.items() if ours[-1] == end[-1]]
        raise CacheError(
            f"{cache.path} does not hold {file}" if not known else f"{cache.path} holds several videos {file} could be",
            expected=f"one of its {len(ends):,} videos, in folders named as in the dataset",
            found=", ".join(paths[v] for v in alike[:4]) or None,
            hint=HINT,
        )
    table = (annotations := holders[known[0]]).samples
    return annotations, table.video(table.rows_of_videos[known[0]][0])


def require_same_file(cache: Cache, video: Video, file: Path) -> None:
    """Raise CacheError if the features are of another file. Without a file, or for older units, nothing is checked."""
    recorded = cache.unit(video.video_id).source
    if recorded and file.exists() and content_of(file) != recorded["sha256"][:16]:
        raise CacheError(
            f"{cache.path} holds the features of another file than {file}",
            expected=f"{recorded['bytes']:,} bytes, SHA-256 {recorded['sha256'][:16]}…",
            found=f"{file.stat().st_size:,} bytes, SHA-256 {content_of(file)}…",
            hint=HINT,
        )


def looked_at(cache: Cache, video: Video, file: Path) -> int:
    """The frame at which an extraction's features of a video end: the end of the video, or its last sampled frame.

    That last frame is missing if the annotated segments end before it. Raises CacheError if more frames are missing.
    """
    whole = video_grid([(0, video.frame_count)], video.fps, cache.recipe.fps)
    lacking = np.setdiff1d(whole, cache.unit(video.video_id).frames)
    if not lacking.size:
        return video.frame_count
    if len(whole) > 1 and lacking[0] == whole[-1]:
        return int(lacking[0])
    raise CacheError(
        f"{cache.path} holds a part of {file} only",
        expected=f"{len(whole):,} frames at {cache.recipe.fps:g} a second",
        found=f"all but {len(lacking):,} of them, such as {lacking[0]}",
        effect="a tube could not lie there; nothing was predicted",
        hint=HINT,
    )
