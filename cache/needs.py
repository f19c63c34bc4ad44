"""The features that samples need of their video: grid frames, and regions (target boxes at grid frames).

A region is a row of five numbers: source frame, x1, y1, x2, y2 in source pixels. Regions are looked up by these numbers
alone, not by the target's name.
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
"""A `max_frames` that never thins. The unthinned frames contain the frames of every smaller `max_frames`."""
PRIMES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Needs:
    """The frames and regions that N samples of one video need."""

    samples: int
    """N."""
    frames: IntArray
    """(f,) source frames, sample by sample."""
    frame_of: IntArray
    """(f,) the sample that needs the frame: 0 … N - 1."""
    regions: FloatArray
    """(r, 5)."""
    region_of: IntArray
    """(r,) the sample that needs the region: 0 … N - 1."""

    @classmethod
    def of(cls, table: SampleTable, rows: Sequence[int], recipe: Recipe) -> Needs:
        """Needs of the samples in table rows of one video. Without regions if the recipe keeps none."""
        index, columns = np.asarray(rows, dtype=np.int64), table.columns
        start, end, fps = (columns[name][index] for name in ("segment_start", "segment_end", "fps"))
        frames, exists = sample_many(start, end, fps, Sampling(recipe.fps, UNTHINNED))
        regions = regions_in(table, index, frames, exists) if recipe.keeps_regions else _no_regions()
        return cls(len(index), frames[exists], np.nonzero(exists)[0], *regions)

    def all_frames(self) -> IntArray:
        """(F,) distinct frames, ascending."""
        return np.unique(self.frames)

    def all_regions(self) -> FloatArray:
        """(R, 5) distinct regions, ascending by frame, then by coordinates."""
        return np.unique(self.regions, axis=0)


def regions_in(
    table: SampleTable, rows: IntArray, frames: IntArray, exists: NDArray[np.bool_]
) -> tuple[FloatArray, IntArray]:
    """Regions (r, 5) of N samples at their frames (N, T), and the sample 0 … N - 1 of each region (r,)."""
    first, last = (table.columns[name][rows][:, None] for name in ("moment_start", "moment_end"))
    sample, slot = np.nonzero(exists & (frames >= first) & (frames < last))
    at, (offsets, values) = frames[sample, slot], table.boxes
    place = offsets[rows[sample]] + 4 * (at - first[sample, 0])
    boxes = values[place[:, None] + np.arange(4)].astype(np.float64)
    known = np.isfinite(boxes).all(1)
    return regions_at(at[known], boxes[known]), sample[known]


def regions_at(frames: IntArray, boxes: FloatArray) -> FloatArray:
    """Boxes (n, 4) at source frames (n,) as regions (n, 5)."""
    return np.concatenate([frames[:, None].astype(np.float64), boxes], axis=1) + 0.0  # + 0.0 turns -0.0 into 0.0


def _no_regions() -> tuple[FloatArray, IntArray]:
    return np.empty((0, 5)), np.empty(0, np.int64)


class RegionIndex:
    """Looks up regions by value among (R, 5). For equal regions, the first is found."""

    def __init__(self, regions: FloatArray) -> None:
        codes = _codes(regions)
        self._order = np.argsort(codes, kind="stable")
        self._codes, self._regions = codes[self._order], regions

    def find(self, wanted: FloatArray) -> IntArray:
        """Row numbers of regions (n, 5): (n,), -1 for unknown regions."""
        codes = _codes(wanted)
        at, found = np.searchsorted(self._codes, codes), np.full(len(wanted), -1)
        searching = np.arange(len(wanted))
        while searching.size:  # one pass, plus one for every hash collision
            searching = searching[at[searching] < len(self._codes)]
            searching = searching[self._codes[at[searching]] == codes[searching]]
            rows = self._order[at[searching]]
            same = (self._regions[rows] == wanted[searching]).all(1)
            found[searching[same]] = rows[same]
            searching = searching[~same]
            at[searching] += 1
        return found


def _codes(regions: FloatArray) -> NDArray[np.uint64]:
    """A 64-bit hash of every region (n, 5): (n,)."""
    bits = np.ascontiguousarray(regions + 0.0).view(np.uint64)
    codes = np.zeros(len(bits), np.uint64)
    for column, prime in zip(bits.T, PRIMES, strict=True):
        codes = (codes ^ column) * np.uint64(prime)
        codes ^= codes >> np.uint64(29)
    return codes
