"""Mean and standard deviation of features, computed from the sums in every unit. No features are read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..errors import CacheError
from .arrays import sums_of
from .index import Cache
from .sampling import FloatArray
from .schema import Level

READERS = 8
"""Number of threads that read units."""
SMALLEST = 1e-3
"""Lower bound of a channel's standard deviation, relative to the mean over channels. It limits the gain of channels
that are almost constant."""


def channel_statistics(cache: Cache, videos: Sequence[str], level: Level) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each channel (C,) over all cells of the videos' frames in the evaluation view.

    Raises CacheError if the cache does not keep the level, or if the videos have no stored frames.
    """
    if cache.recipe.kept.get(level.name, "none") == "none":
        raise CacheError(
            f"{cache.path} has no statistics of level {level.name}",
            expected="a level that is kept as maps or regions",
            found=f"--levels {cache.recipe.keep}",
            hint="--set model.standardise=false, or a cache extracted with --levels roi or full",
        )

    def of_video(video: str) -> tuple[FloatArray, int]:
        unit, sums, frames = cache.unit(video), np.zeros((2, level.channels)), 0
        for key in unit.keys:
            if sums_of(level.name) in cache.store.arrays(key):
                sums += cache.store.read(key, sums_of(level.name))
                frames += len(cache.store.attributes(key)["frames"])
        rows, columns = level.cells(unit.views[0])
        return sums, frames * rows * columns

    with ThreadPoolExecutor(READERS, "statistics") as pool:  # concurrent, because of network latency
        found = list(pool.map(of_video, videos))
    count = sum(cells for _, cells in found)
    if not count:
        raise CacheError(f"{cache.path} has no statistics of level {level.name}: no frame of these videos is stored")
    mean, square = np.sum([sums for sums, _ in found], axis=0) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.maximum(spread, SMALLEST * (spread.mean() or 1.0))
