"""Files of the annotation sets of a cache.

    annotations/<name>.json             header: dataset, splits, file name, bytes and crc32c of the table
    annotations/<name>.<hash>.parquet   table with one row per sentence (see `table`)

A set is replaced in three steps: the new table is written, the header is replaced atomically, the old table is removed.
Features do not depend on annotation sets. A reader that has the old table open continues to read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from awscrt.checksums import crc32c

from ..atomic import make_folder, remove, write_atomic
from ..errors import CacheError
from ..objects import Location, ObjectPath, Tag
from .annotations import NAME, AnnotationSet, Split
from .table import SampleTable, checksum

FOLDER = "annotations"
FORMAT = "stvg annotation set 1"
WRITERS = 20
"""Maximum number of attempts to write a set that other processes change at the same time."""
ATTEMPTS = 5
"""Maximum number of attempts to read a set that is replaced between the reads of its header and its table."""


def set_names(cache: Location) -> list[str]:
    """Names of the annotation sets of a cache, sorted."""
    folder = cache / FOLDER
    entries = folder.iterdir() if folder.is_dir() else ()
    found = (entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))
    return sorted(name for name in found if NAME.fullmatch(name))


def read_set(cache: Location, name: str) -> AnnotationSet:
    """Read an annotation set. Raises CacheError if it does not exist or is damaged."""
    for attempt in range(ATTEMPTS):
        facts = _read_header(cache, name)
        place = cache / FOLDER / facts["table"]["file"]
        try:
            table = SampleTable(place, expected=(facts["table"]["bytes"], facts["table"]["crc32c"]))
        except CacheError:
            if attempt < ATTEMPTS - 1 and _read_header(cache, name) != facts:  # it was replaced in the meantime
                continue
            raise
        splits = {s: Split(**f) for s, f in facts["splits"].items()}
        return AnnotationSet(name, facts["dataset"], splits, table, facts.get("files", {}), cache)
    raise AssertionError("unreachable")


def choose_set(cache: Location, name: str | None) -> AnnotationSet:
    """Read the set of this name, or for None the only set.

    Raises CacheError if there is none, or if None is ambiguous.
    """
    names = set_names(cache)
    if name is None and len(names) != 1:
        raise CacheError(
            f"{cache} holds {len(names)} annotation sets" if names else f"{cache} holds no annotation set",
            found=", ".join(names) or None,
            hint="--annotation-set NAME" if names else "stvg extract with the annotations",
        )
    if name is not None and name not in names:
        raise CacheError(
            f"{cache} holds no annotation set {name!r}", found=", ".join(names) or "none", hint="--annotation-set NAME"
        )
    return read_set(cache, name or names[0])


def update_set(cache: Location, new: AnnotationSet) -> AnnotationSet:
    """Write a set's splits into the cache's set of the same name. Other splits stay. Returns the resulting set.

    Nothing is written if the cache has exactly these samples. Raises CacheError if the name belongs to another dataset.
    """
    now = _change(cache, new.name, lambda found: found.with_splits_of(new, cache) if found else new)
    assert now is not None
    return now


def put_set(cache: Location, new: AnnotationSet) -> None:
    """Replace the cache's set of the same name, unless it is equal."""
    facts = (new.sha256, new.splits, new.files)
    _change(
        cache, new.name, lambda found: found if found and (found.sha256, found.splits, found.files) == facts else new
    )


def note_files(cache: Location, name: str, seen: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Record in a cache's set the video files that its extraction found; see `AnnotationSet.with_files`."""
    _change(cache, name, lambda found: found.with_files(seen) if found else None)


def with_splits(cache: Location, new: AnnotationSet) -> AnnotationSet:
    """The result that `update_set` would give. Nothing is written."""
    return read_set(cache, new.name).with_splits_of(new, cache) if new.name in set_names(cache) else new


def _change(
    cache: Location, name: str, change: Callable[[AnnotationSet | None], AnnotationSet | None]
) -> AnnotationSet | None:
    """Replace a cache's set by ``change(set)``. ``change`` gets None without a set, and may return None to do nothing.

    In object storage, this is repeated if another process wrote the set in the meantime. Raises CacheError after
    `WRITERS` attempts.
    """
    for _ in range(WRITERS):
        with _alone(cache):
            tag = _tag(cache, name)
            now = change(read_set(cache, name) if tag is not None else None)
            if now is None or now.stored_in == cache or write_set(cache, now, tag):
                return now
    raise CacheError(
        f"{cache}: other processes kept changing annotation set {name}",
        tried=f"{WRITERS} times",
        effect="this command did not change it",
        hint="repeat the command",
    )


def write_set(cache: Location, new: AnnotationSet, tag: Tag | None = None) -> bool:
    """Write a set into a cache. Returns False if the stored version of its name is no longer ``tag``; see `_tag`."""
    stored = new.samples.to_bytes()
    name = f"{new.name}.{hashlib.sha256(stored).hexdigest()[:16]}.parquet"
    place = cache / FOLDER / name
    write_atomic(place, stored)
    header = cache / FOLDER / f"{new.name}.json"
    if isinstance(header, ObjectPath):
        if not header.write_unless_changed(_header(new, name), tag):
            return False
    else:
        write_atomic(header, _header(new, name))
    used = {name, _read_header(cache, new.name)["table"]["file"]}
    for old in tables_of(cache, new.name):
        if old.name not in used:
            remove(old)
    if not place.exists():  # in object storage, another writer may have removed it as outdated
        write_atomic(place, stored)
    return True


def _tag(cache: Location, name: str) -> Tag | None:
    """Version tag of a set's header in object storage.

    Empty in a folder, where a lock protects the set. None: no such set.
    """
    header = cache / FOLDER / f"{name}.json"
    try:
        return header.read_tagged()[1] if isinstance(header, ObjectPath) else {} if header.exists() else None
    except FileNotFoundError:
        return None


def remove_set(cache: Location, name: str) -> None:
    """Remove a set from a cache. All features stay. Raises CacheError if there is no set of this name."""
    with _alone(cache):
        header = cache / FOLDER / f"{name}.json"
        if not NAME.fullmatch(name) or not header.exists():
            names = ", ".join(set_names(cache)) or "none"
            raise CacheError(f"{cache} holds no annotation set {name!r}", found=names, effect="nothing was removed")
        remove(header)
        for table in tables_of(cache, name):
            remove(table)


def tables_of(cache: Location, name: str) -> list[Location]:
    """The table files of a set. There is one, unless a writer was killed."""
    folder = cache / FOLDER
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(e for e in entries if re.fullmatch(re.escape(name) + r"\.[0-9a-f]{16}\.parquet", e.name))


def _header(new: AnnotationSet, file: str) -> bytes:
    size, sum_of_bytes = checksum(new.samples.to_bytes())
    content = {
        "format": FORMAT,
        "name": new.name,
        "dataset": new.dataset,
        "sha256": new.sha256,
        "splits": {split: asdict(facts) for split, facts in new.splits.items()},
        **({"files": new.files} if new.files else {}),
        "table": {"file": file, "bytes": size, "crc32c": sum_of_bytes},
    }
    return _sealed(content)


def _sealed(content: Mapping[str, Any]) -> bytes:
    rendered = json.dumps(content, indent=2)
    return json.dumps({"crc32c": crc32c(rendered.encode()), **content}, indent=2).encode() + b"\n"


def _read_header(cache: Location, name: str) -> dict[str, Any]:
    """Read and verify a set's header. Raises CacheError if it is damaged."""
    place = cache / FOLDER / f"{name}.json"
    try:
        stored = place.read_bytes()
        content: dict[str, Any] = json.loads(stored)
        del content["crc32c"]
        if _sealed(content) != stored or (content["format"], content["name"]) != (FORMAT, name):
            raise ValueError("its checksum does not match, or another release wrote it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"{place} is damaged", found=error, hint="stvg cache verify --repair, then repeat the extraction"
        ) from None
    return content


@contextmanager
def _alone(cache: Location) -> Iterator[None]:
    """Lock the sets of a cache against other processes of this machine, if the file system supports it."""
    if not isinstance(cache, Path):
        yield
        return
    make_folder(cache / FOLDER)
    descriptor = os.open(cache / FOLDER, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
