"""Test which samples have all their features in a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .needs import UNTHINNED, RegionIndex, regions_in
from .sampling import FloatArray, IntArray, Sampling, sample_many
from .schema import Recipe
from .table import SampleTable
from .video_unit import VideoUnit

ROWS_AT_ONCE = 512
VIDEO = 2.0**32
"""Offset between the frame numbers of consecutive videos, to search the regions of several videos in one index."""


def covered(
    table: SampleTable, rows: Sequence[int], units: Mapping[str, VideoUnit], recipe: Recipe
) -> NDArray[np.bool_]:
    """(n,) bool: whether all frames and regions that a sample needs are stored, for any ``max_frames``.

    ``units``: the features of the videos that have any, by video id.
    """
    if recipe.bare:
        return np.ones(len(rows), dtype=bool)
    found, index = np.zeros(len(rows), dtype=bool), np.asarray(rows, dtype=np.int64)
    with_unit = [(table.video_ids[row], position) for position, row in enumerate(rows) if table.video_ids[row] in units]
    by_video = sorted(with_unit)
    for at in range(0, len(by_video), ROWS_AT_ONCE):
        block = by_video[at : at + ROWS_AT_ONCE]
        names = {video_id: number for number, video_id in enumerate(dict.fromkeys(v for v, _ in block))}
        video = np.array([names[video_id] for video_id, _ in block])
        positions = np.array([position for _, position in block])
        found[positions] = _block(table, index[positions], video, [units[name] for name in names], recipe)
    return found


def _block(
    table: SampleTable, rows: IntArray, video: IntArray, units: Sequence[VideoUnit], recipe: Recipe
) -> NDArray[np.bool_]:
    """`covered` for samples (n,) of a few videos. ``video`` (n,): each sample's position in ``units``."""
    start, end, fps = (table.columns[name][rows] for name in ("segment_start", "segment_end", "fps"))
    frames, exists = sample_many(start, end, fps, Sampling(recipe.fps, UNTHINNED))
    there = np.asarray((_stored(units, video, frames) | ~exists).all(1))
    if recipe.keeps_regions:
        regions, whose = regions_in(table, rows, frames, exists)
        held = np.concatenate([_of_video(unit.regions, np.full(len(unit.regions), i)) for i, unit in enumerate(units)])
        there[whose[RegionIndex(held).find(_of_video(regions, video[whose])) < 0]] = False
    return there


def _stored(units: Sequence[VideoUnit], video: IntArray, frames: IntArray) -> NDArray[np.bool_]:
    """Mask of the stored frames among (n, T); row i belongs to unit ``video[i]``."""
    # One entry per frame number, and one more that stays False for all larger numbers.
    ends = np.array([int(unit.frames[-1]) + 2 if len(unit.frames) else 1 for unit in units])
    starts = np.cumsum(ends) - ends
    stored = np.zeros(int(ends.sum()), dtype=bool)
    stored[np.concatenate([unit.frames + first for unit, first in zip(units, starts, strict=True)])] = True
    return stored[starts[video][:, None] + np.minimum(frames, ends[video][:, None] - 1)]


def _of_video(regions: FloatArray, video: IntArray) -> FloatArray:
    """Regions (r, 5) with frame numbers shifted per video, so that regions of different videos are never equal."""
    return np.concatenate([regions[:, :1] + VIDEO * video[:, None], regions[:, 1:]], axis=1)
