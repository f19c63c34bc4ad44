"""A video's features from all its units: the first one, and those that were added later.

The attributes of a unit give the source ``frames`` of its rows, its ``views``, and the video file (``source``). Its
array ``regions`` gives the regions of the rows of its ``…_roi`` arrays (see `needs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CacheError
from .needs import Needs, RegionIndex, regions_at
from .sampling import FloatArray, IntArray
from .stores.contract import Store
from .texts import require_recipe
from .view import View

if TYPE_CHECKING:
    from torch import Tensor

ROOM, MORE = "videos", "more"
REGIONS = "regions"


def video_key(video_id: str) -> str:
    """The key of a video's first unit."""
    return f"{ROOM}/{video_id}"


def more_key(video_id: str, frames: IntArray, regions: FloatArray) -> str:
    """The key of an additional unit of a video, with these frames (F,) and regions (R, 5)."""
    held = hashlib.sha256(np.ascontiguousarray(frames, np.int64).tobytes())
    held.update(np.ascontiguousarray(regions, np.float64).tobytes())
    return f"{MORE}/{video_id}/{held.hexdigest()[:16]}"


def video_of(key: str) -> str:
    """The video id of a unit."""
    room, _, name = key.partition("/")
    return name.rpartition("/")[0] if room == MORE else name


@dataclass(frozen=True)
class Places:
    """Locations of n rows of a video: the number of the unit (n,), and the row in it (n,)."""

    units: IntArray
    rows: IntArray

    def reader(self) -> list[tuple[int, NDArray[np.bool_] | slice, IntArray]]:
        """For every unit to read: its number, the mask of the n rows that it holds, and their row numbers in it."""
        first = int(self.units[0]) if len(self.units) else 0
        if (self.units == first).all():
            return [(first, slice(None), self.rows)]
        masks = ((int(number), self.units == number) for number in np.unique(self.units))
        return [(number, mask, self.rows[mask]) for number, mask in masks]


@dataclass(frozen=True, eq=False)
class VideoUnit:
    """The features of one video from all its units."""

    store: Store
    keys: tuple[str, ...]
    views: list[View]
    """The stored views. The first is the evaluation view."""
    source: Mapping[str, Any]
    """The video file: ``bytes``, ``mtime_ns``, ``sha256``. Empty if it was not recorded."""
    frames: IntArray
    """(F,) ascending source frames with stored maps."""
    _places: Places
    """Locations of these F frames."""

    def __repr__(self) -> str:
        return f"VideoUnit {', '.join(self.keys)}: {len(self.frames):,} frames, {len(self.views)} views"

    @classmethod
    def of(cls, store: Store, keys: Sequence[str], fingerprint: str) -> VideoUnit:
        """Join units of a video. Raises CacheError for another recipe, and for units of different files or views."""
        attributes = [store.attributes(key) for key in keys]
        for key, found in zip(keys, attributes, strict=True):
            require_recipe(store, key, found, fingerprint)
        _require_one_video(store, keys, attributes)
        frames = [np.asarray(a["frames"], dtype=np.int64) for a in attributes]
        views, source = [View.from_json(view) for view in attributes[0]["views"]], attributes[0].get("source", {})
        if len(frames) == 1:  # the usual case; the frames of a unit are ascending
            count = len(frames[0])
            places = Places(np.zeros(count, np.int64), np.arange(count))
            return cls(store, tuple(keys), views, source, frames[0], places)
        units = np.concatenate([np.full(len(f), i) for i, f in enumerate(frames)])
        rows = np.concatenate([np.arange(len(f)) for f in frames])
        known, first = np.unique(np.concatenate(frames), return_index=True)
        return cls(store, tuple(keys), views, source, known, Places(units[first], rows[first]))

    @cached_property
    def regions(self) -> FloatArray:
        """(R, 5) regions of all units, concatenated."""
        held = [self.store.read(key, REGIONS) for key in self.keys if REGIONS in self.store.arrays(key)]
        return np.concatenate([np.empty((0, 5)), *held])

    @cached_property
    def _region_places(self) -> Places:
        counts = [
            self.store.arrays(key)[REGIONS].shape[0] if REGIONS in self.store.arrays(key) else 0 for key in self.keys
        ]
        units = np.repeat(np.arange(len(counts)), counts)
        return Places(units, np.concatenate([np.empty(0, np.int64), *map(np.arange, counts)]))

    @cached_property
    def _region_index(self) -> RegionIndex:
        return RegionIndex(self.regions)

    def places(self, frames: IntArray) -> Places:
        """Locations of the maps of source frames. Raises CacheError if one is not stored."""
        at, stored = self._find_frames(frames)
        self._require(stored, frames)
        return Places(self._places.units[at], self._places.rows[at])

    def region_places(self, frames: IntArray, boxes: FloatArray) -> Places:
        """Locations of the regions of boxes (n, 4) xyxy at source frames (n,).

        Raises CacheError if one is not stored.
        """
        at = self._region_index.find(regions_at(frames, boxes))
        self._require(at >= 0, frames, "regions of the target at ")
        return Places(self._region_places.units[at], self._region_places.rows[at])

    def read(self, name: str, places: Places, out: Tensor | None = None) -> Tensor:
        """Rows of an array, read by `read_features`: (n, …, C), written into ``out`` if given."""
        import torch

        from .stores.quantise import read_features

        parts = places.reader()
        if len(parts) == 1:
            return read_features(self.store, self.keys[parts[0][0]], name, parts[0][2], out)
        for unit, mask, rows in parts:
            some = read_features(self.store, self.keys[unit], name, rows)
            out = torch.empty((len(places.rows), *some.shape[1:]), dtype=some.dtype) if out is None else out
            out[torch.from_numpy(mask)] = some
        assert out is not None
        return out

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row of an array. Raises CacheError if no unit has the array."""
        for key in self.keys:
            if name in (arrays := self.store.arrays(key)):
                return arrays[name].shape[1:]
        raise CacheError(f"{self._where} has no array {name!r}", hint="stvg cache verify")

    def lacking(self, needs: Needs) -> tuple[IntArray, FloatArray]:
        """The frames (f,) and regions (r, 5) among the needs that are not stored."""
        frames, regions = needs.all_frames(), needs.all_regions()
        return frames[~self._find_frames(frames)[1]], regions[self._region_index.find(regions) < 0]

    @property
    def _where(self) -> str:
        return f"{self.store.path}, video {video_of(self.keys[0])}"

    def _find_frames(self, frames: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
        if not len(self.frames):
            return np.zeros(len(frames), np.int64), np.zeros(len(frames), bool)
        at = np.minimum(np.searchsorted(self.frames, frames), len(self.frames) - 1)
        return at, self.frames[at] == frames

    def _require(self, stored: NDArray[np.bool_], frames: IntArray, what: str = "") -> None:
        if not stored.all():
            raise CacheError(
                f"{self._where} holds no features of {what}source frames {frames[~stored][:5].tolist()}",
                hint="repeat stvg extract with these annotations to compute the missing features",
            )


def _require_one_video(store: Store, keys: Sequence[str], attributes: Sequence[Mapping[str, Any]]) -> None:
    first = attributes[0]
    for key, other in zip(keys[1:], attributes[1:], strict=True):
        if other["views"] != first["views"] or (
            other.get("source", {}).get("sha256") != first.get("source", {}).get("sha256")
        ):
            raise CacheError(
                f"{store.path}: {keys[0]} and {key} are of different files or sizes of the video",
                found=f"{store.place(keys[0])} and {store.place(key)}",
                hint="remove the unit of the wrong file, then repeat stvg extract",
            )
