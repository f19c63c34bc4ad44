"""Positioned reads of an array's chunks from a file into the caller's memory. Each chunk is verified once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from awscrt.checksums import crc32c

from ...errors import CacheError
from .rows import Run
from .unit import REPAIR, ArrayFacts

READ_BYTES = 2 * 1024 * 1024
"""Bytes read in one call while checksums are compared. So they are still in the CPU cache when they are summed."""


class ChunkFile:
    """The chunks of one array, stored contiguously from byte ``start`` of a file. Each is verified on its first read.

    All reads are positioned, so threads and forked processes may share the object. The file is closed with the object.
    """

    def __init__(self, path: Path, label: str, facts: ArrayFacts, start: int) -> None:
        self._path, self._label, self._facts, self._start = path, label, facts, start
        self._size = facts.chunk_bytes
        self._together = max(1, READ_BYTES // self._size) * self._size
        self.verified = bytearray(facts.chunks)
        """1 for every verified chunk. A store keeps these flags until the file changes (see `identity`)."""
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"{label}: {path} cannot be read", found=error, hint=REPAIR) from None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `os.close` is bound as a default: at interpreter exit the module `os` may be cleared before this object.
        if self._descriptor >= 0:
            close(self._descriptor)

    @property
    def bytes(self) -> int:
        """Size of the whole file in bytes."""
        return os.fstat(self._descriptor).st_size

    def identity(self) -> tuple[object, ...]:
        """A key of the file's current content: it changes when the file is replaced or written to."""
        status = os.fstat(self._descriptor)
        return self._label, self._path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, runs: Sequence[Run]) -> None:
        """See `Chunks`."""
        for first, target in runs:
            if self.verified.find(0, first, first - (-len(target) // self._size)) < 0:
                self._fill(first, target)
                continue
            for at in range(0, len(target), self._together):
                number, piece = first + at // self._size, target[at : at + self._together]
                self._fill(number, piece)
                compare(self._label, self._path, self._facts, number, piece)
                count = -(-len(piece) // self._size)
                self.verified[number : number + count] = b"\1" * count

    def _fill(self, first: int, target: memoryview) -> None:
        """Fill the target from the start of chunk ``first``, without verifying.

        Raises CacheError if the file ends early.
        """
        offset, filled = self._start + first * self._size, 0
        try:
            while got := os.preadv(self._descriptor, [target[filled:] if filled else target], offset + filled):
                if (filled := filled + got) == len(target):
                    return
        except OSError as error:
            where = chunk_place(self._label, self._path, self._facts, first)
            raise CacheError(f"{where} cannot be read", found=error, hint=REPAIR) from None
        where = chunk_place(self._label, self._path, self._facts, first)
        raise CacheError(f"{where} or one after it is cut off", hint=REPAIR)


def compare(label: str, path: object, facts: ArrayFacts, first: int, content: memoryview) -> None:
    """Verify the checksums of consecutive chunks from number ``first``. CacheError names the first that differs."""
    size = facts.chunk_bytes
    sums = np.frombuffer(facts.sums, "<u4", -(-len(content) // size), 4 * first).tolist()
    for i, expected in enumerate(sums):
        if (found := crc32c(content[i * size : (i + 1) * size])) != expected:  # crc32c releases the GIL
            raise CacheError(
                f"{chunk_place(label, path, facts, first + i)} is damaged",
                expected=f"crc32c {expected:08x}",
                found=f"{found:08x}",
                hint=REPAIR,
            )


def chunk_place(label: str, path: object, facts: ArrayFacts, number: int) -> str:
    """The name of a chunk in error messages."""
    per = facts.rows_per_chunk
    last = min((number + 1) * per, facts.shape[0]) - 1
    return f"{label}: chunk {number} (rows {number * per} to {last}) of {path}"
