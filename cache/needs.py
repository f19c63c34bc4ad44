"""What samples need of their video: frames of its grid, and regions, which are boxes of targets at such frames.

A region is a row of five numbers: source frame, x1, y1, x2, y2 in source pixels. It is found by exactly these, whatever the
annotation calls its target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sampling import FloatArray, IntArray, Sampling, sample_many
from .schema import Recipe
from .table import SampleTable

UNTHINNED = 2**31
"""Slots of a clip of which none is left out. Whatever the `max_frames` of a run, its frames are among these."""
PRIMES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Needs:
    """What N samples of one video need: every frame and region with the number of the sample, 0 … N - 1."""

    samples: int
    frames: IntArray
    frame_of: IntArray
    regions: FloatArray
    """(r, 5)."""
    region_of: IntArray

    @classmethod
    def of(cls, table: SampleTable, rows: Sequence[int], recipe: Recipe) -> Needs:
        """Of the samples in some rows of a table, which are of one video. Without regions where the recipe keeps none."""
        index, columns = np.asarray(rows, dtype=np.int64), table.columns
        start, end, fps = (columns[name][index] for name in ("segment_start", "segment_end", "fps"))
        frames, exists = sample_many(start, end, fps, Sampling(recipe.fps, UNTHINNED))
        regions = regions_in(table, index, frames, exists) if recipe.keeps_regions else _no_regions()
        return cls(len(index), frames[exists], np.nonzero(exists)[0], *regions)

    def all_frames(self) -> IntArray:
        """(F,) ascending: the video's grid."""
        return np.unique(self.frames)

    def all_regions(self) -> FloatArray:
        """(R, 5) ascending by frame, then by coordinates; none twice."""
        return np.unique(self.regions, axis=0)


def regions_in(
    table: SampleTable, rows: IntArray, frames: IntArray, exists: NDArray[np.bool_]
) -> tuple[FloatArray, IntArray]:
    """The boxes of some samples at some frames (N, T) of theirs: regions (r, 5), and whose of the N samples each is."""
    first, last = (table.columns[name][rows][:, None] for name in ("moment_start", "moment_end"))
    sample, slot = np.nonzero(exists & (frames >= first) & (frames < last))
    at, (offsets, values) = frames[sample, slot], table.boxes
    place = offsets[rows[sample]] + 4 * (at - first[sample, 0])
    boxes = values[place[:, None] + np.arange(4)].astype(np.float64)
    known = np.isfinite(boxes).all(1)
    return regions_at(at[known], boxes[known]), sample[known]


def regions_at(frames: IntArray, boxes: FloatArray) -> FloatArray:
    """Boxes (n, 4) at source frames (n,) as regions (n, 5)."""
    return np.concatenate([frames[:, None].astype(np.float64), boxes], axis=1) + 0.0  # of two zeros, one


def _no_regions() -> tuple[FloatArray, IntArray]:
    return np.empty((0, 5)), np.empty(0, np.int64)


class RegionIndex:
    """Finds regions (R, 5) by value. Of equal ones the first counts."""

    def __init__(self, regions: FloatArray) -> None:
        codes = _codes(regions)
        self._order = np.argsort(codes, kind="stable")
        self._codes, self._regions = codes[self._order], regions

    def find(self, wanted: FloatArray) -> IntArray:
        """The row of each of some regions (n, 5): (n,), -1 where there is none."""
        codes = _codes(wanted)
        at, found = np.searchsorted(self._codes, codes), np.full(len(wanted), -1)
        searching = np.arange(len(wanted))
        while searching.size:  # once, but for codes that different regions share
            searching = searching[at[searching] < len(self._codes)]
            searching = searching[self._codes[at[searching]] == codes[searching]]
            rows = self._order[at[searching]]
            same = (self._regions[rows] == wanted[searching]).all(1)
            found[searching[same]] = rows[same]
            searching = searching[~same]
            at[searching] += 1
        return found


def _codes(regions: FloatArray) -> NDArray[np.uint64]:
    """A number for every region (n, 5), equal for equal ones."""
    bits = np.ascontiguousarray(regions + 0.0).view(np.uint64)
    codes = np.zeros(len(bits), np.uint64)
    for column, prime in zip(bits.T, PRIMES, strict=True):
        codes = (codes ^ column) * np.uint64(prime)
        codes ^= codes >> np.uint64(29)
    return codes
