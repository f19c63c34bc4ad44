"""The source file of a unit: its size, modification time and SHA-256, recorded during extraction, compared later."""

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
"""Size in bytes, modification time in ns, inode: if one of them differs, the file has changed."""


def state_of(file: Path) -> State:
    """Raises VideoError if the file cannot be read."""
    try:
        found = os.stat(file)
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None
    return found.st_size, found.st_mtime_ns, found.st_ino


def sha256_of(file: Path) -> str:
    """SHA-256 of the content, in hex. Raises VideoError."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None


@dataclass(frozen=True)
class Seen:
    """The result of comparing a complete unit with the present video file."""

    why: str | None = None
    """Why the file is not the unit's, or the unit cannot be read; None: it is the same, or the unit records no file."""
    file: Mapping[str, Any] | None = None
    """Facts of the present file if it is another one: ``bytes``, ``mtime_ns`` and, if computed, ``sha256``."""
    known: bool = True
    """False if the comparison was not possible."""


class WatchedFile:
    """A file during decoding: a thread computes its hash, and a change of the file is detected."""

    def __init__(self, file: Path, pool: ThreadPoolExecutor) -> None:
        self.file, self.before = file, state_of(file)
        self.digest = pool.submit(sha256_of, file)

    def require_unchanged(self) -> None:
        """Raises VideoError if the file has changed since decoding began."""
        now = state_of(self.file)
        if now != self.before:
            raise VideoError(
                f"{self.file} changed while it was read",
                expected=f"{self.before[0]:,} bytes, as at the beginning",
                found=f"{now[0]:,} bytes" + (", rewritten" if now[0] == self.before[0] else ""),
                effect="none of its features were stored",
                hint="repeat the command once the file is complete",
            )

    def record(self) -> dict[str, Any]:
        """The facts of the file that a unit records. Waits for the hash. Raises VideoError if the file has changed."""
        digest = self.digest.result()
        self.require_unchanged()
        return {"bytes": self.before[0], "mtime_ns": self.before[1], "sha256": digest}


class Sources:
    """The video files of one extraction. One thread hashes files being decoded, another those of complete units."""

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
        """Watch a file that is about to be decoded. Raises VideoError if it cannot be read."""
        return WatchedFile(file, self.pools[0])

    def compare(self, video_id: str, file: Path) -> None:
        """Compare a complete unit with the present file, in a thread; `outdated` and `files` hold the differences."""
        self.compared[video_id] = self.pools[1].submit(self.difference, video_id, file)

    def differs(self, video_id: str, file: Path) -> bool:
        """`compare`, and wait: True if the unit was extracted from another file, or cannot be read."""
        self.compare(video_id, file)
        return self.compared[video_id].result().why is not None

    def outdated(self) -> dict[str, str]:
        """Video id → error text, for compared units that belong to another file or are damaged. Waits for all."""
        found = {video_id: future.result() for video_id, future in self.compared.items()}
        return {video_id: seen.why for video_id, seen in found.items() if seen.why is not None}

    def files(self) -> dict[str, Mapping[str, Any] | None]:
        """For every compared video: facts of the present file if it is another one, else None. Waits for all."""
        found = {video_id: future.result() for video_id, future in self.compared.items()}
        return {video_id: seen.file for video_id, seen in found.items() if seen.known}

    def difference(self, video_id: str, file: Path) -> Seen:
        """Compare a unit with a file. The hash is computed only if sizes agree and modification times differ."""
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
            return Seen(known=False)  # the file has been removed; cached features do not need it
        if digest == recorded["sha256"]:
            return Seen()
        was, now = (f"{count:,} bytes" for count in (recorded["bytes"], size))
        places = ", ".join(str(self.cache.store.place(key)) for key in unit.keys)
        replaced = CacheError(
            f"{file} is another file than video {video_id} was extracted from",
            expected=was if digest is None else f"{was}, SHA-256 {recorded['sha256'][:16]}…",
            found=now if digest is None else f"{now}, SHA-256 {digest[:16]}…",
            effect="the cached features belong to the earlier file; this annotation set does not read them",
            hint=f"if the file was replaced, restore the earlier one, or remove {places} and repeat the command; "
            "if these are two videos, give one of them another id in its annotation, and remove its annotation set",
        )
        return Seen(str(replaced), {"bytes": size, "mtime_ns": mtime, **({"sha256": digest} if digest else {})})


def doubtful(
    cache: Cache, annotations: AnnotationSet, files: Mapping[str, Path | VideoError]
) -> dict[str, Mapping[str, Any]]:
    """Files that may differ from those the cached features were extracted from, by size and modification time.

    The annotation set does not read these features until the files have been compared by content, even if the command
    is interrupted before that. No content is read here. A video that the existing set of this name contains was
    compared before; for it, a new modification time alone does not count as a difference.
    """
    known = read_set(cache.path, annotations.name) if annotations.name in set_names(cache.path) else None
    before = {} if known is None else known.samples.rows_of_videos
    there = cache.complete()
    with suppress(CacheError):  # reported where these units are used
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
