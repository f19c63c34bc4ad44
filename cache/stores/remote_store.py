"""Zarr units in object storage. A unit is written to a local folder and then uploaded, its record last.

A unit is complete when its record exists. So readers ignore the objects of an interrupted upload, and the next upload
overwrites them. Two extractors that upload the same video at the same time both write features of the same recipe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ...atomic import original_name
from ...errors import CacheError
from ...objects import Location, ObjectPath
from .chunk_file import compare
from .rows import Chunks, Run
from .unit import REPAIR, ArrayFacts, UnitWriter
from .zarr_store import RECORD, ZarrStore, ZarrWriter, require_size, shard_name

REQUEST_BYTES = 4 * 1024 * 1024
"""Bytes of one request at most. Longer runs of chunks are split into several concurrent requests."""
UPLOADS = 4
"""Concurrent uploads of a unit's files."""


class RemoteStore(ZarrStore):
    """See `Store`. Worker processes must be spawned, not forked."""

    path: ObjectPath

    @contextmanager
    def writer(self, key: str) -> Iterator[UnitWriter]:
        self.place(key)  # raises ValueError for an invalid key
        with tempfile.TemporaryDirectory(prefix="stvg-") as staging:
            writer = ZarrWriter(self.publish, key, Path(staging) / "unit")
            try:
                yield writer
            finally:
                writer.discard()

    def publish(self, key: str, temporary: Path) -> bool:
        if self.contains(key):
            return False
        place = self.place(key)
        assert isinstance(place, ObjectPath)
        names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
            list(pool.map(lambda name: (place / name).write_bytes(temporary / name), set(names) - {RECORD}))
        (place / RECORD).write_bytes((temporary / RECORD).read_bytes())
        return True

    def keys(self, room: str) -> list[str]:
        """See `Store.keys`. One listing of the room; the storage returns a thousand names per request."""
        units = {path.parent for path, _ in (self.path / room).below() if path.name == RECORD}
        return sorted(key for unit in units if unit.parent.name == room and (key := self._key_of(unit)) is not None)

    def _key_of(self, entry: Location) -> str | None:
        try:
            name = original_name(entry.name)
        except ValueError:
            return None
        return self._read_record(entry, None).key if name is None else f"{entry.parent.name}/{name}"

    def strays(self, room: str) -> list[Location]:
        complete = {self.place(key) for key in self.keys(room)}
        return sorted(entry for entry in self._entries(room) if entry not in complete)

    @classmethod
    def _open_array(cls, place: Location, key: str, name: str, facts: ArrayFacts) -> Chunks:
        path, label = place / name / shard_name(facts), f"{key}, array {name}"
        assert isinstance(path, ObjectPath)
        try:
            require_size(path.size(), facts, f"{label}: {path}")
        except FileNotFoundError:
            raise CacheError(f"{label}: {path} is missing", hint=REPAIR) from None
        return RemoteChunks(path, label, facts)

    @staticmethod
    def _tail(path: Location, facts: ArrayFacts) -> bytes:
        assert isinstance(path, ObjectPath)
        start, size = facts.shape[0] * facts.row_bytes, path.size()
        return bytes(path.read_ranges([start], [size])[0]) if start < size else b""

    @staticmethod
    def _names(place: Location) -> set[str]:
        assert isinstance(place, ObjectPath)
        return {path.key.removeprefix(place.key + "/") for path, _ in place.below()}


class RemoteChunks:
    """The chunks of one array in an object. Every read verifies them. See `Chunks`."""

    def __init__(self, path: ObjectPath, label: str, facts: ArrayFacts) -> None:
        self._path, self._label, self._facts = path, label, facts

    def read(self, runs: Sequence[Run]) -> None:
        """See `Chunks`. All runs are requested concurrently."""
        size = self._facts.chunk_bytes
        step = max(1, REQUEST_BYTES // size) * size
        pieces = [
            (first + at // size, target[at : at + step]) for first, target in runs for at in range(0, len(target), step)
        ]
        starts = [first * size for first, _ in pieces]
        ends = [start + len(target) for start, (_, target) in zip(starts, pieces, strict=True)]
        try:
            answers = self._path.read_ranges(starts, ends)
        except FileNotFoundError:
            raise CacheError(f"{self._label}: {self._path} is missing", hint=REPAIR) from None
        for (first, target), answer in zip(pieces, answers, strict=True):
            received = memoryview(answer).cast("B")
            if len(received) != len(target):
                raise CacheError(f"{self._label}: {self._path} is cut off", hint=REPAIR)
            compare(self._label, self._path, self._facts, first, received)
            target[:] = received
