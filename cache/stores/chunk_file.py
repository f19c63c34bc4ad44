"""Chunks of an array read at their positions in a file, straight into the caller's memory, each checked once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from awscrt.checksums import crc32c
from numpy.typing import NDArray

from ...errors import CacheError
from ..sampling import IntArray
from .unit import REPAIR, ArrayFacts

SUM_BYTES = 4
READ_BYTES = 2 * 1024 * 1024
"""About this much is asked for in one call, so that checksums are computed while it is in the processor's cache."""
READ_CHUNKS = 500
"""Each chunk and each checksum is one of the at most 1024 buffers a positioned read takes."""


class OpenFile:
    """A file that holds an array's chunks. It has no position, so threads and forked processes may share it; it closes with
    its last user."""

    def __init__(self, path: Path, label: str) -> None:
        self._path, self._label = path, label
        self.descriptor = -1
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # A default, because at the end of a program `os` may be gone before an open file is.
        if self.descriptor >= 0:
            close(self.descriptor)


class ChunkFile(OpenFile):
    """The chunks of one array at known places of a file, each checked when it is first read.

    ``offsets``: (chunks,) where each starts. ``sums``: (chunks,) their crc32c; None when each follows its chunk in the
    file, little-endian. With ``sums`` given the last chunk ends with the array; the rest of its target is left alone.
    """

    def __init__(
        self, path: Path, label: str, facts: ArrayFacts, offsets: IntArray, sums: NDArray[np.uint32] | None = None
    ) -> None:
        super().__init__(path, label)
        self._facts = facts
        self._places, self._sums = offsets, None if sums is None else sums.tolist()
        self._gap = SUM_BYTES if sums is None else 0
        self._batch = max(1, min(READ_CHUNKS, READ_BYTES // facts.chunk_bytes))
        self._last_bytes = (facts.shape[0] - (facts.chunks - 1) * facts.rows_per_chunk) * facts.row_bytes
        self.verified = bytearray(facts.chunks)
        """1 for every chunk whose checksum was compared. A store keeps it as long as the file stays what it is."""

    def identity(self) -> tuple[object, ...]:
        """What changes when the file is replaced or written to."""
        status = os.fstat(self.descriptor)
        return self._label, self._path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, numbers: Sequence[int], targets: Sequence[memoryview]) -> None:
        """See `Chunks`. Neighbours in the file are read together."""
        step = self._facts.chunk_bytes + self._gap
        places = self._places[np.asarray(numbers, dtype=np.int64)]
        ends = [*(np.flatnonzero(np.diff(places) != step) + 1).tolist(), len(numbers)]
        first = 0
        for end in ends:
            while first < end:
                known = 0 not in self.verified[numbers[first] : numbers[end - 1] + 1]
                some = slice(first, min(end, first + (READ_CHUNKS if known else self._batch)))
                self._read_run(numbers[some], targets[some], int(places[first]), known)
                first = some.stop

    def _read_run(self, numbers: Sequence[int], targets: Sequence[memoryview], offset: int, known: bool) -> None:
        """Chunks that follow each other in the file; checksums are passed over when they are ``known`` to be right."""
        if self._sums is not None and numbers[-1] == self._facts.chunks - 1:
            targets = [*targets[:-1], targets[-1][: self._last_bytes]]
        inline = np.empty(len(numbers), "<u4")
        buffers = list(targets)
        if self._gap:
            behind = [inline.data.cast("B")[:SUM_BYTES]] * len(numbers) if known else _each(inline)
            buffers = [part for pair in zip(targets, behind, strict=True) for part in pair]
        try:
            complete = _read_fully(self.descriptor, buffers, offset)
        except OSError as error:
            raise CacheError(f"{self._where(numbers[0])} cannot be read", found=error, hint=REPAIR) from None
        if not complete:
            raise CacheError(f"{self._where(numbers[0])} or one after it is cut off", hint=REPAIR)
        if not known:
            self._verify(numbers, targets, inline.tolist() if self._sums is None else [self._sums[n] for n in numbers])

    def _verify(self, numbers: Sequence[int], targets: Sequence[memoryview], sums: list[int]) -> None:
        for number, target, expected in zip(numbers, targets, sums, strict=True):
            if (found := crc32c(target)) != expected:  # twice as fast, and other threads go on meanwhile
                raise CacheError(
                    f"{self._where(number)} is damaged",
                    expected=f"crc32c {expected:08x}",
                    found=f"{found:08x}",
                    hint=REPAIR,
                )
            self.verified[number] = 1

    def _where(self, number: int) -> str:
        return chunk_place(self._label, self._path, self._facts, number)


def chunk_place(label: str, path: object, facts: ArrayFacts, number: int) -> str:
    """How a chunk is named in errors."""
    per = facts.rows_per_chunk
    last = min((number + 1) * per, facts.shape[0]) - 1
    return f"{label}: chunk {number} (rows {number * per} to {last}) of {path}"


def _each(sums: NDArray[np.uint32]) -> list[memoryview]:
    stored = sums.data.cast("B")
    return [stored[at : at + SUM_BYTES] for at in range(0, len(stored), SUM_BYTES)]


def _read_fully(descriptor: int, buffers: list[memoryview], offset: int) -> bool:
    """Fill the buffers from a place in a file. False when the file ends before."""
    missing = sum(map(len, buffers))
    while (got := os.preadv(descriptor, buffers, offset)) != missing:
        if not got:
            return False
        offset, missing = offset + got, missing - got
        filled = 0
        while got >= len(buffers[filled]):
            got -= len(buffers[filled])
            filled += 1
        buffers = buffers[filled:]
        buffers[0] = buffers[0][got:]
    return True
