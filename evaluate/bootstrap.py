"""How sure a mean is: 95 % intervals by resampling videos, for one run and for the difference of two.

Sentences of one video share its difficulty, so videos are drawn, not sentences; drawing sentences would give VidSTG, with
about 15 of them to a video, intervals that are far too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..cache.sampling import FloatArray

DRAWS = 2000
AT_ONCE = 200
"""Draws in memory at a time: a hundred megabytes at 7,000 videos."""
Interval = tuple[float, float]


def intervals(values: FloatArray, videos: Sequence[str], seed: int = 0, draws: int = DRAWS) -> list[Interval]:
    """The 95 % interval of every column's mean. values (n, k), one row per sample; videos: (n,) whose sample it is.

    The same seed gives the same interval. With a single video there is nothing to draw: (nan, nan).
    """
    _, video = np.unique(np.asarray(videos), return_inverse=True)
    count = int(video.max()) + 1 if len(video) else 0
    if count < 2:
        return [(float("nan"), float("nan"))] * values.shape[1]
    sums, sizes = np.zeros((count, values.shape[1])), np.bincount(video, minlength=count).astype(float)
    np.add.at(sums, video, values)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, AT_ONCE):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(AT_ONCE, draws - start)).astype(float)
        means.append((weights @ sums) / (weights @ sizes)[:, None])
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
