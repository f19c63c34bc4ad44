"""95 % bootstrap intervals of means, by resampling videos: for one run and for the difference of two runs.

Sentences of one video are correlated, so videos are resampled rather than sentences. VidSTG has about 15 sentences per
video; resampling sentences would make its intervals far too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..cache.sampling import FloatArray

DRAWS = 2000
AT_ONCE = 200
"""Draws computed at a time: about 20 MB for 7,000 videos."""
Interval = tuple[float, float]


def intervals(values: FloatArray, videos: Sequence[str], seed: int = 0, draws: int = DRAWS) -> list[Interval]:
    """The 95 % interval of every column's mean.

    values (n, k): one row per sample. videos (n,): the video of each sample. The same seed gives the same intervals.
    With fewer than two videos, every interval is (nan, nan).
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
