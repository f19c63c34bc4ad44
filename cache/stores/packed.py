"""Packed chunks, read one by one: smaller, slower, and checked as all others are.

Every chunk is packed by itself, as a codec its format's readers know. So frames stay addressable, and the checksum is
that of the bytes on disk.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import Location
from ..sampling import IntArray
from .chunk_file import SUM_BYTES, OpenFile, chunk_place
from .codecs import unpack
from .unit import REPAIR, ArrayFacts


class PackedChunks(ABC):
    """The packed chunks of one array, each checked when read.

    ``offsets``, ``lengths``: (chunks,) where each lies. ``sums``: (chunks,) crc32c of its packed bytes; None when each
    follows its chunk, little-endian.
    """

    def __init__(
        self,
        path: Location,
        label: str,
        facts: ArrayFacts,
        offsets: IntArray,
        lengths: IntArray,
        sums: NDArray[np.uint32] | None = None,
    ) -> None:
        self._path, self._label, self._facts = path, label, facts
        self._offsets, self._lengths = offsets.tolist(), lengths.tolist()
        self._sums = None if sums is None else sums.tolist()

    @abstractmethod
    def _fetch(self, starts: list[int], ends: list[int]) -> list[Any]:
        """Half-open ranges of bytes, short where there are no more. CacheError when they cannot be had."""

    def read(self, numbers: Sequence[int], targets: Sequence[memoryview]) -> None:
        """See `Chunks`."""
        behind = SUM_BYTES if self._sums is None else 0
        starts = [self._offsets[number] for number in numbers]
        ends = [start + self._lengths[number] + behind for start, number in zip(starts, numbers, strict=True)]
        for number, stored, target in zip(numbers, self._fetch(starts, ends), targets, strict=True):
            try:
                unpack(self._facts.compression or "", self._checked(number, np.frombuffer(stored, np.uint8)), target)
            except ValueError as error:
                raise self._damaged(number, "cannot be unpacked", found=error) from None

    def _checked(self, number: int, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        length = self._lengths[number]
        packed, behind = stored[:length], stored[length:]
        if len(packed) != length or (self._sums is None and len(behind) != SUM_BYTES):
            raise self._damaged(number, "is cut off")
        expected = int.from_bytes(behind.tobytes(), "little") if self._sums is None else self._sums[number]
        if (found := google_crc32c.value(packed)) != expected:
            raise self._damaged(number, "is damaged", expected=f"crc32c {expected:08x}", found=f"{found:08x}")
        return packed

    def _damaged(self, number: int, what: str, **facts: object) -> CacheError:
        where = chunk_place(self._label, self._path, self._facts, number)
        return CacheError(f"{where} {what}", **facts, hint=REPAIR)


class PackedFile(PackedChunks):
    """Packed chunks inside a file."""

    def __init__(
        self,
        path: Path,
        label: str,
        facts: ArrayFacts,
        offsets: IntArray,
        lengths: IntArray,
        sums: NDArray[np.uint32] | None = None,
    ) -> None:
        super().__init__(path, label, facts, offsets, lengths, sums)
        self._file = OpenFile(path, label)

    def _fetch(self, starts: list[int], ends: list[int]) -> list[bytes]:
        try:
            descriptor = self._file.descriptor
            return [os.pread(descriptor, end - start, start) for start, end in zip(starts, ends, strict=True)]
        except OSError as error:
            raise CacheError(f"{self._label}: {self._path} cannot be read", found=error, hint=REPAIR) from None
