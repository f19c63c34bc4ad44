"""Zarr units in object storage. A unit is written to a local folder, then uploaded, its record last.

A unit is complete when its record is there, so an upload that breaks off leaves nothing a reader looks at, and the next
one replaces it. Two extractors that upload the same video at the same time store the same recipe's features twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from ...atomic import original_name
from ...errors import CacheError
from ...objects import Location, ObjectPath
from .contract import Chunks
from .packed import PackedChunks
from .unit import REPAIR, ArrayFacts, UnitWriter
from .zarr_store import RECORD, SUM_BYTES, ZarrStore, ZarrWriter, packed_places, packed_tail, shard_index, shard_name

REQUEST_BYTES = 4 * 1024 * 1024
"""Longer runs of chunks are asked for in pieces, several of them in flight."""
UPLOADS = 4


class RemoteStore(ZarrStore):
    """See `Store`. Worker processes must be spawned, not forked."""

    path: ObjectPath

    @contextmanager
    def writer(self, key: str) -> Iterator[UnitWriter]:
        self.place(key)  # refuses what is no key
        with tempfile.TemporaryDirectory(prefix="stvg-") as staging:
            writer = ZarrWriter(self, key, Path(staging) / "unit")
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
        """See `Store.keys`; one listing, a thousand names to a request."""
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
    def _open_array(cls, place: Location, key: str, name: str) -> Chunks:
        assert isinstance(place, ObjectPath)
        facts = cls._read_record(place, key).arrays[name]
        path, label = place / name / shard_name(facts), f"{key}, array {name}"
        size = facts.chunks * (facts.chunk_bytes + SUM_BYTES) + shard_index(facts).nbytes + SUM_BYTES
        try:
            found = path.size()
            if facts.compression:
                tail = bytes(path.read_ranges([max(0, found - packed_tail(facts))], [found])[0])
                where = f"{label}: the chunk index of {path}"
                return RemotePacked(path, label, facts, *packed_places(tail, found, facts, where))
        except FileNotFoundError:
            raise CacheError(f"{label}: {path} is missing", hint=REPAIR) from None
        if found != size:
            raise CacheError(f"{label}: {path} has another size", expected=size, found=f"{found} bytes", hint=REPAIR)
        return RemoteChunks(path, label, facts)

    def _check_chunks(self, place: Location, key: str, name: str, facts: ArrayFacts) -> list[str]:
        problems = super()._check_chunks(place, key, name, facts)
        if facts.compression:  # the index was read to find the chunks
            return problems
        path = place / name / shard_name(facts)
        assert isinstance(path, ObjectPath)
        index = shard_index(facts).tobytes()
        stored = index + google_crc32c.value(index).to_bytes(SUM_BYTES, "little")
        start = facts.chunks * (facts.chunk_bytes + SUM_BYTES)
        if not problems and bytes(path.read_ranges([start], [start + len(stored)])[0]) != stored:
            problems.append(f"{key}, array {name}: the chunk index of {path} is damaged")
        return problems

    @staticmethod
    def _names(place: Location) -> set[str]:
        assert isinstance(place, ObjectPath)
        return {path.key.removeprefix(place.key + "/") for path, _ in place.below()}


class RemoteChunks:
    """The chunks of one array inside an object, each checked when read. See `Chunks`."""

    def __init__(self, path: ObjectPath, label: str, facts: ArrayFacts) -> None:
        self._path, self._label, self._facts = path, label, facts

    def read(self, numbers: Sequence[int], targets: Sequence[memoryview]) -> None:
        """See `Chunks`. Neighbours in the object are asked for together."""
        step = self._facts.chunk_bytes + SUM_BYTES
        runs = _runs(numbers, max(1, REQUEST_BYTES // step))
        starts = [numbers[run.start] * step for run in runs]
        ends = [start + len(run) * step for start, run in zip(starts, runs, strict=True)]
        try:
            answers: list[Any] = self._path.read_ranges(starts, ends)
        except FileNotFoundError:
            raise CacheError(f"{self._label}: {self._path} is missing", hint=REPAIR) from None
        for run, answer in zip(runs, answers, strict=True):
            received = np.frombuffer(answer, np.uint8)
            if len(received) != len(run) * step:
                raise CacheError(f"{self._label}: {self._path} is cut off", hint=REPAIR)
            for i, chunk in zip(run, received.reshape(len(run), step), strict=True):
                values, checksum = chunk[:-SUM_BYTES], int.from_bytes(chunk[-SUM_BYTES:].tobytes(), "little")
                if (found := google_crc32c.value(values)) != checksum:
                    raise CacheError(
                        f"{self._label}: chunk {numbers[i]} of {self._path} is damaged",
                        expected=f"crc32c {checksum:08x}",
                        found=f"{found:08x}",
                        hint=REPAIR,
                    )
                targets[i][:] = values.data


class RemotePacked(PackedChunks):
    """Packed chunks inside an object."""

    def _fetch(self, starts: list[int], ends: list[int]) -> list[Any]:
        assert isinstance(self._path, ObjectPath)
        try:
            return self._path.read_ranges(starts, ends)
        except FileNotFoundError:
            raise CacheError(f"{self._label}: {self._path} is missing", hint=REPAIR) from None


def _runs(numbers: Sequence[int], longest: int) -> list[range]:
    """Positions of consecutive numbers, at most ``longest`` to a run."""
    runs, first = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or i - first == longest or numbers[i] != numbers[i - 1] + 1:
            runs.append(range(first, i))
            first = i
    return runs
