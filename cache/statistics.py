"""Mean and spread of features, from the sums that every unit holds; no features are read."""

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
"""Units that are asked for at once."""
SMALLEST = 1e-3
"""Least spread of a channel, as a share of the mean spread of all: what hardly varies is not blown up."""


def channel_statistics(cache: Cache, videos: Sequence[str], level: Level) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each channel (C,) over the cells of some videos' frames as they are evaluated.

    Raises CacheError where the cache keeps nothing of the level, or the videos have no frames.
    """
    if cache.recipe.kept.get(level.name, "none") == "none":
        raise CacheError(
            f"{cache.path} has no statistics of level {level.name}",
            expected="a level that is kept, as maps or as regions",
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

    with ThreadPoolExecutor(READERS, "statistics") as pool:  # over a network, one by one is slow
        found = list(pool.map(of_video, videos))
    count = sum(cells for _, cells in found)
    if not count:
        raise CacheError(f"{cache.path} has no statistics of level {level.name}: no frame of these videos is stored")
    mean, square = np.sum([sums for sums, _ in found], axis=0) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.maximum(spread, SMALLEST * (spread.mean() or 1.0))
