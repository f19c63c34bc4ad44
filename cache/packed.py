"""Packed chunks, read one by one: smaller, slower, and checked as all others are.

Every chunk is packed by itself, as a codec its format's readers know. So frames stay addressable, and the checksum is
that of the bytes on disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from .codecs import unpack
from .errors import CacheError
from .sampling import IntArray
from .unit import REPAIR, ArrayFacts

SUM_BYTES = 4


class PackedFile:
    """The packed chunks of one array inside a file, each checked when read. Shared and closed as `ChunkFile` is.

    ``offsets``, ``lengths``: (chunks,) where each lies. ``sums``: (chunks,) crc32c of its packed bytes; None when each
    follows its chunk in the file, little-endian.
    """

    def __init__(
        self,
        path: Path,
        label: str,
        facts: ArrayFacts,
        offsets: IntArray,
        lengths: IntArray,
        sums: NDArray[np.uint32] | None = None,
    ) -> None:
        self._path, self._label, self._facts = path, label, facts
        self._offsets, self._lengths = offsets.tolist(), lengths.tolist()
        self._sums = None if sums is None else sums.tolist()
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, numbers: Sequence[int], targets: Sequence[NDArray[np.uint8]]) -> None:
        """See `Chunks`."""
        for number, target in zip(numbers, targets, strict=True):
            packed = self._packed(number)
            try:
                unpack(self._facts.compression or "", packed, target)
            except ValueError as error:
                raise self._damaged(number, "cannot be unpacked", found=error) from None

    def _packed(self, number: int) -> NDArray[np.uint8]:
        length = self._lengths[number]
        try:
            stored = os.pread(
                self._descriptor, length + (SUM_BYTES if self._sums is None else 0), self._offsets[number]
            )
        except OSError as error:
            raise self._damaged(number, "cannot be read", found=error) from None
        packed, behind = np.frombuffer(stored[:length], np.uint8), stored[length:]
        if len(packed) != length or (self._sums is None and len(behind) != SUM_BYTES):
            raise self._damaged(number, "is cut off")
        expected = int.from_bytes(behind, "little") if self._sums is None else self._sums[number]
        if (found := google_crc32c.value(packed)) != expected:
            raise self._damaged(number, "is damaged", expected=f"crc32c {expected:08x}", found=f"{found:08x}")
        return packed

    def _damaged(self, number: int, what: str, **facts: object) -> CacheError:
        per = self._facts.rows_per_chunk
        last = min((number + 1) * per, self._facts.shape[0]) - 1
        where = f"{self._label}: chunk {number} (rows {number * per} to {last}) of {self._path}"
        return CacheError(f"{where} {what}", **facts, hint=REPAIR)
