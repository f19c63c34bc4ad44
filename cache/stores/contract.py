"""Feature units, written once and read many times: the interface of both backends.

A *unit* holds one video's features or one part of the text features: named arrays and attributes. The first axis of an
array counts rows (frames, tokens, regions). The unit's key is ``room/name``: ``videos/<video id>``, ``text/00000``. A
unit becomes visible when it is complete, and is never changed afterwards.

Rows are stored in chunks. The unit's record holds a checksum of each chunk. A chunk of a local file is verified the
first time a store reads it; a chunk read over a network is verified every time. A mismatch raises CacheError with the
chunk's name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...atomic import TEMPORARY, make_folder, original_name, publish, sweep, temporary_name, unit_name
from ...errors import CacheError
from ...objects import Location, ObjectPath
from ..sampling import IntArray
from .rows import Chunks, gather, row_numbers
from .unit import ArrayFacts, UnitRecord, UnitWriter

CHECKED_TOGETHER = 64
"""Chunks that `Store.check` reads in one call."""
OPEN_ARRAYS = 128
"""Arrays that a store keeps open."""


@runtime_checkable
class Remembering(Chunks, Protocol):
    """Chunks that record which of them were verified, and that identify the file they are read from."""

    verified: bytearray

    def identity(self) -> tuple[object, ...]: ...


class Store(ABC):
    """The units of a cache folder. Can be shared between threads, forked, and pickled to a worker process."""

    suffix = ""

    def __init__(self, path: Location) -> None:
        self.path = path
        self._swept: set[str] = set()
        # The cached functions hold no reference to the store. So the store is freed at once and its files are closed.
        self._known = lru_cache(32 * OPEN_ARRAYS)(self._read_facts)
        self._opened = lru_cache(OPEN_ARRAYS)(partial(_open_verified, self._open_array, self._known, {}))
        self._place = lru_cache(32 * OPEN_ARRAYS)(partial(_place, path, self.suffix))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path,)

    def place(self, key: str) -> Location:
        """Path of a unit's file or folder. Raises ValueError if the key is not ``room/name``."""
        return self._place(key)

    @contextmanager
    def writer(self, key: str) -> Iterator[UnitWriter]:
        """Write a unit. Without a call of `UnitWriter.commit`, everything written is removed.

        The first write to a room also removes the temporary files of killed writers there.
        """
        place = self._local(key)
        make_folder(place.parent)
        if place.parent.name not in self._swept:
            sweep(place.parent)
            self._swept.add(place.parent.name)
        writer = self._new_writer(key, place.parent / temporary_name())
        try:
            yield writer
        finally:
            writer.discard()

    def publish(self, key: str, temporary: Path) -> bool:
        """Make a finished unit visible. Returns False, and changes nothing, if a complete unit of this key exists.

        Raises CacheError if an incomplete unit has this name.
        """
        try:
            publish(temporary, self._local(key))
        except FileExistsError as error:
            if not self.contains(key):
                raise CacheError(
                    f"{error.filename} is in the way: an incomplete unit", hint="stvg cache verify --repair"
                ) from None
            return False
        return True

    def contains(self, key: str) -> bool:
        return self._complete(self.place(key))

    def keys(self, room: str) -> list[str]:
        """Keys of the complete units of a room, sorted. `strays` lists all other entries."""
        return sorted(key for key in map(self._key_of, self._entries(room)) if key is not None)

    def strays(self, room: str) -> list[Location]:
        """Entries of a room that are not complete units, sorted: temporaries, broken units, foreign files."""
        return sorted(entry for entry in self._entries(room) if self._key_of(entry) is None)

    def sweep(self) -> list[Path]:
        """Remove the temporaries of killed writers from the cache folder and its rooms. Returns the removed paths."""
        if isinstance(self.path, ObjectPath):
            return []  # the next upload of a unit overwrites the objects of an interrupted one
        rooms = [p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith(TEMPORARY)]
        return [path for folder in (self.path, *rooms) for path in sweep(folder)]

    def attributes(self, key: str) -> dict[str, Any]:
        return self._read_record(self.place(key), key).attributes

    def arrays(self, key: str) -> dict[str, ArrayFacts]:
        return dict(self._known(self.place(key), key))

    def read(
        self, key: str, name: str, rows: IntArray | slice | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Read rows of an array: (n, *shape[1:]).

        ``rows``: None for all, a slice, or a list of row numbers in any order, with repeats allowed.
        ``out``: an array of exactly the result's shape and type, filled and returned. It may be a strided view, such as
        the upper left part of padded maps, but its last axis must be contiguous. Its content is undefined after an
        error.

        Raises CacheError for a missing unit or array and for a damaged record, array or chunk; IndexError for a row out
        of range; ValueError for an ``out`` of another shape, type or layout.
        """
        facts = self._find(key, name)
        numbers = row_numbers(rows, facts.shape[0], f"{key}, {name}")
        shape = (len(numbers), *facts.shape[1:])
        if out is None:
            out = np.empty(shape, facts.dtype)
        elif out.shape != shape or out.dtype != facts.dtype or out.strides[-1] != out.itemsize:
            found = f"{out.shape} {out.dtype}, strides {out.strides}"
            raise ValueError(f"out must be {shape} {facts.dtype} with a contiguous last axis, got {found}")
        if len(numbers):
            gather(self._opened(self.place(key), key, name), facts, numbers, out)
        return out

    def check(self, key: str) -> list[str]:
        """Read a whole unit.

        Returns one line for each missing, short, damaged or foreign part; empty without faults.
        """
        place = self.place(key)
        try:
            record = self._read_record(place, key)
            problems = self._check_layout(place, record)
        except CacheError as error:
            return [error.message]
        for name, facts in record.arrays.items():
            if facts.chunks:
                problems += self._check_chunks(place, key, name, facts)
        return problems

    def _check_chunks(self, place: Location, key: str, name: str, facts: ArrayFacts) -> list[str]:
        try:
            chunks = self._open_array(place, key, name, facts)
        except CacheError as error:
            return [error.message]
        size, end = facts.chunk_bytes, facts.shape[0] * facts.row_bytes
        scratch = memoryview(bytearray(min(CHECKED_TOGETHER * size, end)))
        problems = []
        for first in range(0, facts.chunks, CHECKED_TOGETHER):
            try:
                chunks.read([(first, scratch[: end - first * size])])
            except CacheError:  # read one by one, to report every damaged chunk
                for number in range(first, min(first + CHECKED_TOGETHER, facts.chunks)):
                    try:
                        chunks.read([(number, scratch[: min(size, end - number * size)])])
                    except CacheError as error:
                        problems.append(error.message)
        return problems

    def _local(self, key: str) -> Path:
        place = self.place(key)
        assert isinstance(place, Path), f"{place} is written by another class"
        return place

    def _find(self, key: str, name: str) -> ArrayFacts:
        arrays = self._known(self.place(key), key)
        if name not in arrays:
            raise CacheError(f"{self.place(key)}: {key} has no array {name!r}", found=", ".join(arrays) or "no arrays")
        return arrays[name]

    def _entries(self, room: str) -> list[Location]:
        folder = self.path / room
        return list(folder.iterdir()) if folder.is_dir() else []

    def _key_of(self, entry: Location) -> str | None:
        unit = entry.name.removesuffix(self.suffix)
        if unit + self.suffix != entry.name or not self._complete(entry):
            return None
        try:
            name = original_name(unit)
        except ValueError:
            return None
        return self._read_record(entry, None).key if name is None else f"{entry.parent.name}/{name}"

    @classmethod
    def _read_facts(cls, place: Location, key: str) -> dict[str, ArrayFacts]:
        return cls._read_record(place, key).arrays

    @abstractmethod
    def _new_writer(self, key: str, temporary: Path) -> UnitWriter: ...

    @staticmethod
    @abstractmethod
    def _complete(place: Location) -> bool:
        """Whether a path holds a committed unit."""

    @staticmethod
    @abstractmethod
    def _read_record(place: Location, key: str | None) -> UnitRecord:
        """Raises CacheError if there is no complete unit, or if its record is damaged or names another key."""

    @classmethod
    @abstractmethod
    def _open_array(cls, place: Location, key: str, name: str, facts: ArrayFacts) -> Chunks:
        """Raises CacheError if the array is missing or has another size. Never called for arrays without rows."""

    @abstractmethod
    def _check_layout(self, place: Location, record: UnitRecord) -> list[str]:
        """Faults outside the chunks: missing parts, foreign parts, and differences from the record."""


def _place(path: Location, suffix: str, key: str) -> Location:
    room, _, name = key.partition("/")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", room) or not name:
        raise ValueError(f"{key!r} is not a key like 'videos/<name>'")
    return path / room / (unit_name(name) + suffix)


def _open_verified(
    open_array: Callable[[Location, str, str, ArrayFacts], Chunks],
    known: Callable[[Location, str], dict[str, ArrayFacts]],
    verified: dict[tuple[object, ...], bytearray],
    place: Location,
    key: str,
    name: str,
) -> Chunks:
    """Open an array. Chunks that were verified before its file was last closed are not verified again."""
    chunks = open_array(place, key, name, known(place, key)[name])
    if isinstance(chunks, Remembering):
        chunks.verified = verified.setdefault(chunks.identity(), chunks.verified)
    return chunks
