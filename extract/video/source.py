"""The video file behind a unit: size, time and SHA-256 of the content, noted beside the work and compared later."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.annotations import AnnotationSet
from ...cache.index import Cache
from ...cache.set_files import read_set, set_names
from ...errors import CacheError, VideoError

State = tuple[int, int, int]
"""Bytes, time of the last change in ns, inode: what tells that a file is not what it was a moment ago."""


def state_of(file: Path) -> State:
    """Raises VideoError for a file that is not there any more."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None
    return found.st_size, found.st_mtime_ns, found.st_ino


def sha256_of(file: Path) -> str:
    """Of the content, in hex. Raises VideoError."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None


@dataclass(frozen=True)
class Seen:
    """What came of looking whether complete features are of the file that is there."""

    why: str | None = None
    """Why they are not, or cannot be told to be; None: they are, or say nothing of their file."""
    file: Mapping[str, Any] | None = None
    """The file that is there, where it is another one: ``bytes``, ``mtime_ns``, ``sha256``."""
    known: bool = True
    """False where that could not be found out."""


class WatchedFile:
    """A file that is being decoded. Its hash is computed meanwhile, and a change of it is noticed."""

    def __init__(self, file: Path, pool: ThreadPoolExecutor) -> None:
        self.file, self.before = file, state_of(file)
        self.digest = pool.submit(sha256_of, file)

    def require_unchanged(self) -> None:
        """Raises VideoError when the file is not as it was when decoding began."""
        now = state_of(self.file)
        if now != self.before:
            raise VideoError(
                f"{self.file} changed while it was read",
                expected=f"{self.before[0]:,} bytes, as at the beginning",
                found=f"{now[0]:,} bytes" + (", written anew" if now[0] == self.before[0] else ""),
                effect="nothing of it was stored",
                hint="repeat the command once the file is whole",
            )

    def record(self) -> dict[str, Any]:
        """What a unit says of its file. Waits for the hash. Raises VideoError when the file changed meanwhile."""
        digest = self.digest.result()
        self.require_unchanged()
        return {"bytes": self.before[0], "mtime_ns": self.before[1], "sha256": digest}


class Sources:
    """The files of one extraction: those being decoded, and those of complete units, each kind hashed by a thread."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.pools = ThreadPoolExecutor(1, "hash"), ThreadPoolExecutor(1, "compare")
        self.compared: dict[str, Future[Seen]] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def read(self, file: Path) -> WatchedFile:
        """A file that is decoded from now on. Raises VideoError when it is not there any more."""
        return WatchedFile(file, self.pools[0])

    def compare(self, video_id: str, file: Path) -> None:
        """Look whether a complete unit is of the file that is there now; what differs is in `outdated` and `files`."""
        self.compared[video_id] = self.pools[1].submit(self.difference, video_id, file)

    def differs(self, video_id: str, file: Path) -> bool:
        """`compare` at once: whether a unit is not of the file that is there now."""
        self.compare(video_id, file)
        return self.compared[video_id].result().why is not None

    def outdated(self) -> dict[str, str]:
        """The complete videos whose unit is of another file, or damaged, and what to do. Waits for all."""
        found = {video_id: future.result() for video_id, future in self.compared.items()}
        return {video_id: seen.why for video_id, seen in found.items() if seen.why is not None}

    def files(self) -> dict[str, Mapping[str, Any] | None]:
        """Of every compared video the file that is there where it is another one, else None. Waits for all."""
        found = {video_id: future.result() for video_id, future in self.compared.items()}
        return {video_id: seen.file for video_id, seen in found.items() if seen.known}

    def difference(self, video_id: str, file: Path) -> Seen:
        """Whether a unit is of a file. Only another time asks for the hash."""
        try:
            unit = self.cache.unit(video_id)
            recorded = unit.source
            size, mtime, _ = state_of(file)
            if not recorded or (size, mtime) == (recorded["bytes"], recorded["mtime_ns"]):
                return Seen()
            digest = None if size != recorded["bytes"] else sha256_of(file)
        except CacheError as error:
            return Seen(str(error), known=False)
        except VideoError:
            return Seen(known=False)  # it went away meanwhile; features need no file
        if digest == recorded["sha256"]:
            return Seen()
        was, now = (f"{count:,} bytes" for count in (recorded["bytes"], size))
        places = ", ".join(str(self.cache.store.place(key)) for key in unit.keys)
        replaced = CacheError(
            f"{file} is another file than video {video_id} was extracted from",
            expected=was if digest is None else f"{was}, SHA-256 {recorded['sha256'][:16]}…",
            found=now if digest is None else f"{now}, SHA-256 {digest[:16]}…",
            effect="the cache holds the features of the other file; they are not read for these annotations",
            hint=f"if it was replaced, bring the other file back, or remove {places} and repeat the command; if these are "
            "two videos, give one of them another id in its annotation, and remove its annotation set",
        )
        return Seen(str(replaced), {"bytes": size, "mtime_ns": mtime, **({"sha256": digest} if digest else {})})


def doubtful(
    cache: Cache, annotations: AnnotationSet, files: Mapping[str, Path | VideoError]
) -> dict[str, Mapping[str, Any]]:
    """The files of videos that are not known to be those the cache holds features of: until they are compared, the
    annotation set reads none of these features, even if that is never done. No content is looked at.

    A video that the set of this name has already was compared before: another time alone makes its file no other one.
    """
    known = read_set(cache.path, annotations.name) if annotations.name in set_names(cache.path) else None
    before = {} if known is None else known.samples.rows_of_videos
    there = cache.complete()
    with suppress(CacheError):  # said where they are worked on
        cache.read_units([video_id for video_id in files if video_id in there])
    found: dict[str, Mapping[str, Any]] = {}
    for video_id, file in files.items():
        if video_id in there and isinstance(file, Path):
            with suppress(CacheError, VideoError):
                recorded, (size, mtime, _) = cache.unit(video_id).source, state_of(file)
                changed = recorded and (size, mtime) != (recorded["bytes"], recorded["mtime_ns"])
                if changed and (video_id not in before or size != recorded["bytes"]):
                    found[video_id] = {"bytes": size, "mtime_ns": mtime}
    return found
