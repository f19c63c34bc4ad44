"""What a video's unit says of itself: which frames and regions its rows are, and which file they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CacheError
from .sampling import IntArray
from .view import View


@dataclass(frozen=True)
class VideoUnit:
    """What one video's unit says of itself."""

    frames: IntArray
    """(F,) ascending source frames: the rows of the maps of every view."""
    views: list[View]
    """The first is the evaluation geometry."""
    roi_rows: dict[str, tuple[IntArray, IntArray]]
    """Per target: ascending source frames and the rows of the regions that hold them."""
    source: Mapping[str, Any]
    """The file it was extracted from: ``bytes``, ``mtime_ns``, ``sha256``. Empty in units of older caches."""

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> VideoUnit:
        """From the attributes that are stored with a unit."""
        roi_frames = np.asarray(attributes["roi_frames"], dtype=np.int64)
        targets = np.asarray(attributes["roi_targets"], dtype=np.int64)
        roi = {
            name: (roi_frames[targets == i], np.flatnonzero(targets == i))
            for i, name in enumerate(attributes["targets"])
        }
        frames = np.asarray(attributes["frames"], dtype=np.int64)
        views = [View.from_json(view) for view in attributes["views"]]
        return cls(frames, views, roi, attributes.get("source", {}))

    def rows(self, frames: IntArray, where: object) -> IntArray:
        """Rows of the maps at source frames; CacheError when one is not stored."""
        return _find(self.frames, np.arange(len(self.frames)), frames, where)

    def rows_of_target(self, target_id: str, frames: IntArray, where: object) -> IntArray:
        """Rows of the regions of one target at source frames; CacheError when one is not stored."""
        known, rows = self.roi_rows.get(target_id, (np.empty(0, np.int64), np.empty(0, np.int64)))
        return _find(known, rows, frames, where)


def _find(known: IntArray, rows: IntArray, wanted: IntArray, where: object) -> IntArray:
    at = np.searchsorted(known, wanted)
    stored = (
        (at < len(known)) & (known[np.minimum(at, len(known) - 1)] == wanted)
        if len(known)
        else np.zeros(len(wanted), bool)
    )
    if not stored.all():
        raise CacheError(
            f"{where} holds no features of source frames {wanted[~stored][:5].tolist()}",
            expected="frames of the grid this cache was extracted on",
            hint="use the fps the cache was made with, or extract again",
        )
    return rows[at]
