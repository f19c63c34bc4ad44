"""Feature units, written once and read many times: the contract both backends keep.

A *unit* is one video's features, or one part of the text features: named arrays whose first axis counts rows (frames,
tokens, regions), and attributes. Its key is ``room/name``: ``videos/<video id>``, ``text/00000``. A unit is visible
only when it is complete, and is never changed afterwards.

Rows are stored in chunks; the unit's record holds a checksum of each. It is compared when a chunk of a local file is first
read through a store, and at every read of one that comes over a network. Damage is an error with its name, never zeros.
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
"""Chunks that `Store.check` reads at once."""
OPEN_ARRAYS = 128


@runtime_checkable
class Remembering(Chunks, Protocol):
    """Chunks that know which of them were checked, and when what they are read from is another file."""

    verified: bytearray

    def identity(self) -> tuple[object, ...]: ...


class Store(ABC):
    """The units below a cache folder. Safe to share between threads, to fork with, and to pickle to a worker."""

    suffix = ""

    def __init__(self, path: Location) -> None:
        self.path = path
        self._swept: set[str] = set()
        # Caches of functions that know no store: nothing here refers back to it, so its open files close with it.
        self._known = lru_cache(32 * OPEN_ARRAYS)(self._read_facts)
        self._opened = lru_cache(OPEN_ARRAYS)(partial(_open_verified, self._open_array, self._known, {}))
        self._place = lru_cache(32 * OPEN_ARRAYS)(partial(_place, path, self.suffix))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path,)

    def place(self, key: str) -> Location:
        """The file or folder of a unit. Raises ValueError for a key that is not ``room/name``."""
        return self._place(key)

    @contextmanager
    def writer(self, key: str) -> Iterator[UnitWriter]:
        """Write a unit; unless `UnitWriter.commit` was called, nothing of it remains. The room is swept first."""
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
        """Make a finished unit visible. False, and nothing changed, when there is one already.

        Raises CacheError when a broken unit stands under this name.
        """
        try:
            publish(temporary, self._local(key))
        except FileExistsError as error:
            if not self.contains(key):
                raise CacheError(
                    f"{error.filename} is in the way and incomplete", hint="stvg cache verify --repair"
                ) from None
            return False
        return True

    def contains(self, key: str) -> bool:
        return self._complete(self.place(key))

    def keys(self, room: str) -> list[str]:
        """Keys of the complete units of a room, sorted. A name that is no unit's is left to `strays`."""
        return sorted(key for key in map(self._key_of, self._entries(room)) if key is not None)

    def strays(self, room: str) -> list[Location]:
        """What lies in a room and is no complete unit: writers at work, leftovers, damage, foreign files. Sorted."""
        return sorted(entry for entry in self._entries(room) if self._key_of(entry) is None)

    def sweep(self) -> list[Path]:
        """Remove what killed writers left in the cache folder and its rooms, and return it."""
        if isinstance(self.path, ObjectPath):
            return []  # what an upload that broke off left there is replaced by the next one
        rooms = [p for p in self.path.iterdir() if p.is_dir() and not p.name.startswith(TEMPORARY)]
        return [path for folder in (self.path, *rooms) for path in sweep(folder)]

    def attributes(self, key: str) -> dict[str, Any]:
        return self._read_record(self.place(key), key).attributes

    def arrays(self, key: str) -> dict[str, ArrayFacts]:
        return dict(self._known(self.place(key), key))

    def read(
        self, key: str, name: str, rows: IntArray | slice | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Rows of an array: all, a slice, or a list of numbers in any order, repeats allowed: (n, *shape[1:]).

        ``out``: of exactly that shape and type, filled and returned; it may have gaps, as the upper left part of padded
        maps has, but not between the elements of its last axis. After an error its content is undefined.

        Raises CacheError for a missing unit or array and for damage (unit, array, chunk), IndexError for a row that is
        not there, ValueError for an ``out`` that does not fit.
        """
        facts = self._find(key, name)
        numbers = row_numbers(rows, facts.shape[0], f"{key}, {name}")
        shape = (len(numbers), *facts.shape[1:])
        if out is None:
            out = np.empty(shape, facts.dtype)
        elif out.shape != shape or out.dtype != facts.dtype or out.strides[-1] != out.itemsize:
            found = f"{out.shape} {out.dtype}, strides {out.strides}"
            raise ValueError(f"out must be {shape} {facts.dtype}, its last axis without gaps, got {found}")
        if len(numbers):
            gather(self._opened(self.place(key), key, name), facts, numbers, out)
        return out

    def check(self, key: str) -> list[str]:
        """Read all of a unit: what is missing, short, damaged or foreign, a line each. Empty when all is well."""
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
            except CacheError:  # singly, so that every damaged one is named
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
        """Whether a committed unit stands at a place."""

    @staticmethod
    @abstractmethod
    def _read_record(place: Location, key: str | None) -> UnitRecord:
        """Raises CacheError when there is no complete unit, or its record is damaged or not ``key``'s."""

    @classmethod
    @abstractmethod
    def _open_array(cls, place: Location, key: str, name: str, facts: ArrayFacts) -> Chunks:
        """Raises CacheError when the array is missing, or of another size. Not for arrays without rows."""

    @abstractmethod
    def _check_layout(self, place: Location, record: UnitRecord) -> list[str]:
        """What is missing, foreign or contradicts the record, chunks aside."""


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
    """An array whose chunks are not checked again when they were before the file was last closed."""
    chunks = open_array(place, key, name, known(place, key)[name])
    if isinstance(chunks, Remembering):
        chunks.verified = verified.setdefault(chunks.identity(), chunks.verified)
    return chunks
