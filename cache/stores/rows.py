"""Rows of an array out of its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..sampling import IntArray
from .unit import ArrayFacts

SCRATCH_BYTES = 2 * 1024 * 1024
"""Rows that cannot be read straight to where they belong pass through this much, which the processor's cache holds."""


class Chunks(Protocol):
    """The chunks of one stored array."""

    def read(self, numbers: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Fill ``targets[i]``, (chunk bytes,), with chunk ``numbers[i]``. CacheError names the first damaged one."""


def row_numbers(rows: IntArray | slice | None, count: int, where: str) -> IntArray:
    if rows is None or isinstance(rows, slice):
        return np.arange(count, dtype=np.int64)[rows or slice(None)]
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise IndexError(f"{where}: rows are a list of whole numbers, got {numbers.dtype} of shape {numbers.shape}")
    numbers = numbers.astype(np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
        raise IndexError(f"{where}: rows 0 to {count - 1} exist, asked for {numbers.min()} to {numbers.max()}")
    return numbers


def gather(chunks: Chunks, facts: ArrayFacts, rows: IntArray, out: NDArray[Any]) -> None:
    """Fill ``out`` (n, …) with rows: chunks wanted whole and in order go straight into it, others through scratch."""
    per, rest = facts.rows_per_chunk, np.ones(len(rows), dtype=bool)
    if out[:per].flags.c_contiguous:
        starts = np.flatnonzero(rows % per == 0)
        starts = starts[starts + per <= len(rows)]
        inside = starts[:, None] + np.arange(per)
        in_order = (rows[inside] - rows[starts][:, None] == np.arange(per)).all(1)
        whole, rest[inside[in_order]] = starts[in_order], False
        chunks.read((rows[whole] // per).tolist(), _pieces(out, whole, per))
        if not rest.any():
            return

    positions = np.flatnonzero(rest)
    numbers, which = np.unique(rows[positions] // per, return_inverse=True)
    step = max(1, SCRATCH_BYTES // facts.chunk_bytes)
    scratch = np.empty((min(step, len(numbers)), per, *facts.shape[1:]), facts.dtype)
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        chunks.read(some.tolist(), _pieces(scratch, np.arange(len(some)), 1))
        here = (which >= first) & (which < first + len(some))
        out[positions[here]] = scratch[which[here] - first, rows[positions[here]] % per]


def _pieces(out: NDArray[Any], starts: IntArray, per: int) -> list[memoryview]:
    """The bytes of ``out[start : start + per]`` for every start. Slices of one view: a clip is read faster than NumPy makes
    as many arrays."""
    data = out.reshape(len(out), -1).view(np.uint8)
    if not data.flags.c_contiguous:
        return [data[start : start + per].reshape(-1).data for start in starts.tolist()]
    memory, size = data.reshape(-1).data, per * data.shape[1]
    return [memory[at : at + size] for at in (starts * data.shape[1]).tolist()]
