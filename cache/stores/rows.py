"""Read rows of an array from its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..sampling import IntArray
from .unit import ArrayFacts

SCRATCH_BYTES = 2 * 1024 * 1024
"""Size of the buffer for rows that cannot be read directly into the result. It fits in the CPU cache."""

Run = tuple[int, memoryview]
"""(first chunk, target): consecutive whole chunks and the memory to fill. The array's last chunk has no padding."""


class Chunks(Protocol):
    """The chunks of one stored array."""

    def read(self, runs: Sequence[Run]) -> None:
        """Fill the target of every run. Raises CacheError with the name of the first damaged chunk."""


def row_numbers(rows: IntArray | slice | None, count: int, where: str) -> IntArray:
    if rows is None or isinstance(rows, slice):
        return np.arange(count, dtype=np.int64)[rows or slice(None)]
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise IndexError(f"{where}: rows must be a list of integers, got {numbers.dtype} of shape {numbers.shape}")
    numbers = numbers.astype(np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() >= count):
        raise IndexError(f"{where}: rows 0 to {count - 1} exist, requested {numbers.min()} to {numbers.max()}")
    return numbers


def gather(chunks: Chunks, facts: ArrayFacts, rows: IntArray, out: NDArray[Any]) -> None:
    """Fill ``out`` (n, …) with rows. Chunks needed whole and in order are read into it, others through a buffer."""
    runs, rest = _straight(facts, rows, out)
    chunks.read(runs)
    if not len(rest):
        return
    numbers, which = np.unique(rows[rest] // facts.rows_per_chunk, return_inverse=True)
    step = max(1, SCRATCH_BYTES // facts.chunk_bytes)
    scratch = np.empty((min(step, len(numbers)) * facts.rows_per_chunk, *facts.shape[1:]), facts.dtype)
    memory = _memory(scratch)
    for first in range(0, len(numbers), step):
        chunks.read(_runs(facts, numbers[first : first + step], memory))
        here = (which >= first) & (which < first + step)
        places = rest[here]
        found = (which[here] - first) * facts.rows_per_chunk + rows[places] % facts.rows_per_chunk
        out[_sliced(places)] = scratch[_sliced(found)]


def _straight(facts: ArrayFacts, rows: IntArray, out: NDArray[Any]) -> tuple[list[Run], IntArray]:
    """The runs that can be read directly into ``out``, and the positions in ``out`` of all other rows."""
    per, count = facts.rows_per_chunk, facts.shape[0]
    dense = out.flags.c_contiguous
    if not out[:1].flags.c_contiguous or not (dense or per == 1):
        return [], np.arange(len(rows))
    starts = _starts(rows) if dense else np.arange(len(rows))
    lowest = rows[starts]
    behind = lowest + np.append(starts[1:], len(rows)) - starts
    first, last = -(-lowest // per) * per, behind // per * per
    last[behind == count] = count
    whole = first < last
    begin = (starts + first - lowest)[whole]
    end = begin + (last - first)[whole]
    numbers, places = (first[whole] // per).tolist(), zip(begin.tolist(), end.tolist(), strict=True)
    if dense:
        memory, size = _memory(out), facts.row_bytes
        targets = [memory[start * size : stop * size] for start, stop in places]
    else:
        targets = [_memory(out[start:stop]) for start, stop in places]
    inside = np.zeros(len(rows) + 1, np.int8)
    inside[begin] += 1
    inside[end] -= 1
    return list(zip(numbers, targets, strict=True)), np.flatnonzero(inside.cumsum()[:-1] == 0)


def _runs(facts: ArrayFacts, numbers: IntArray, memory: memoryview) -> list[Run]:
    """Runs that read ascending chunk numbers contiguously into memory."""
    size, end = facts.chunk_bytes, facts.shape[0] * facts.row_bytes
    starts = _starts(numbers).tolist()
    runs = []
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        first = int(numbers[start])
        runs.append((first, memory[start * size : start * size + min((stop - start) * size, end - first * size)]))
    return runs


def _starts(numbers: IntArray) -> IntArray:
    """Start positions of the runs of consecutive numbers."""
    return np.concatenate([[0], np.flatnonzero(numbers[1:] != numbers[:-1] + 1) + 1])


def _memory(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _sliced(numbers: IntArray) -> slice | IntArray:
    """Consecutive numbers as a slice: NumPy then copies without a temporary array."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if (np.diff(numbers) == 1).all() else numbers
