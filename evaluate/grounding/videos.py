"""Which video of a cache a file is, what of it is known there, and what a file turns out to be."""

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
    """Names what a file holds: 16 hex digits."""
    if not file.is_file():  # what is no file may never end
        raise VideoError(f"{file} is not a file")
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None


def video_of(file: Path, video_id: str, fps: float) -> Video:
    """What a file turns out to be, every frame of it decoded. ``fps``: what a head wants to see of it.

    The rate is the average one. With pauses it may be below ``fps``; then it is that of most frames.
    """
    facts = probe(file)
    rate = facts.fps if facts.fps >= fps else 1 / facts.clock.step
    if rate < fps:
        raise VideoError(
            f"{file} has too few frames a second", expected=f"at least the head's {fps:g}", found=f"{rate:.4g}"
        )
    return Video(video_id, file.name, facts.width, facts.height, rate, facts.frames)


def clock_when_known(cache: Cache, video: Video, file: Path) -> Clock | None:
    """When the frames of a video are shown: by its file, or else by its annotation, or None where that assumes a rate.

    Raises VideoError when the file has another number of frames than the video.
    """
    if file.exists():
        return clock_of(file, video.frame_count)
    return None if rate_is_assumed(cache.annotations.dataset) else Clock.steady(video.frame_count, video.fps)


def find_video(cache: Cache, file: Path) -> tuple[AnnotationSet, Video]:
    """The video of an extraction's cache whose file this is, and an annotation set that names it: the file ends as the
    annotation's path does.

    Raises CacheError when there is none, it was skipped, or there are several.
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
    """Refuse features of another file than the one that is there, if any; older units do not say. Raises CacheError."""
    recorded = cache.unit(video.video_id).source
    if recorded and file.exists() and content_of(file) != recorded["sha256"][:16]:
        raise CacheError(
            f"{cache.path} holds the features of another file than {file}",
            expected=f"{recorded['bytes']:,} bytes, SHA-256 {recorded['sha256'][:16]}…",
            found=f"{file.stat().st_size:,} bytes, SHA-256 {content_of(file)}…",
            hint=HINT,
        )


def looked_at(cache: Cache, video: Video, file: Path) -> int:
    """The frame that an extraction's features of a video reach up to: its end, or the last frame that would be looked at.

    That one is lacking where annotated segments end before the last frame. Raises CacheError when more is.
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
