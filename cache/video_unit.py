"""A video's features, wherever they lie: the unit that was written first, and those that were added since, read as one.

A unit says in its attributes which source ``frames`` the rows of its maps are, through which ``views``, and of which file
(``source``); its array ``regions`` says which regions the rows of its ``…_roi`` arrays are (see `needs`).
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
    """The key of a unit with these frames (F,) and regions (R, 5) that is added to a video."""
    held = hashlib.sha256(np.ascontiguousarray(frames, np.int64).tobytes())
    held.update(np.ascontiguousarray(regions, np.float64).tobytes())
    return f"{MORE}/{video_id}/{held.hexdigest()[:16]}"


def video_of(key: str) -> str:
    """The id of the video that a unit is of."""
    room, _, name = key.partition("/")
    return name.rpartition("/")[0] if room == MORE else name


@dataclass(frozen=True)
class Places:
    """Rows of a video's arrays: in which of its units, and which row there. (n,) each."""

    units: IntArray
    rows: IntArray

    def reader(self) -> list[tuple[int, NDArray[np.bool_] | slice, IntArray]]:
        """For every unit that is read: its number, which of the n rows come from it, and the rows there."""
        first = int(self.units[0]) if len(self.units) else 0
        if (self.units == first).all():
            return [(first, slice(None), self.rows)]
        masks = ((int(number), self.units == number) for number in np.unique(self.units))
        return [(number, mask, self.rows[mask]) for number, mask in masks]


@dataclass(frozen=True, eq=False)
class VideoUnit:
    """What all units of one video hold together."""

    store: Store
    keys: tuple[str, ...]
    views: list[View]
    """The first is the evaluation geometry."""
    source: Mapping[str, Any]
    """The file it was extracted from: ``bytes``, ``mtime_ns``, ``sha256``. Empty where a unit does not say."""
    frames: IntArray
    """(F,) ascending source frames whose maps are stored."""
    _places: Places
    """(F,)."""

    def __repr__(self) -> str:
        return f"VideoUnit {', '.join(self.keys)}: {len(self.frames):,} frames, {len(self.views)} views"

    @classmethod
    def of(cls, store: Store, keys: Sequence[str], fingerprint: str) -> VideoUnit:
        """Join some units of a video. Raises CacheError for another recipe, and for units of different files or views."""
        attributes = [store.attributes(key) for key in keys]
        for key, found in zip(keys, attributes, strict=True):
            require_recipe(store, key, found, fingerprint)
        _require_one_video(store, keys, attributes)
        frames = [np.asarray(a["frames"], dtype=np.int64) for a in attributes]
        views, source = [View.from_json(view) for view in attributes[0]["views"]], attributes[0].get("source", {})
        if len(frames) == 1:  # most videos: a unit's frames ascend
            count = len(frames[0])
            places = Places(np.zeros(count, np.int64), np.arange(count))
            return cls(store, tuple(keys), views, source, frames[0], places)
        units = np.concatenate([np.full(len(f), i) for i, f in enumerate(frames)])
        rows = np.concatenate([np.arange(len(f)) for f in frames])
        known, first = np.unique(np.concatenate(frames), return_index=True)
        return cls(store, tuple(keys), views, source, known, Places(units[first], rows[first]))

    @cached_property
    def regions(self) -> FloatArray:
        """(R, 5): the regions of all units, one after the other."""
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
        """Where the maps of source frames are. Raises CacheError when one is not stored."""
        at, stored = self._find_frames(frames)
        self._require(stored, frames)
        return Places(self._places.units[at], self._places.rows[at])

    def region_places(self, frames: IntArray, boxes: FloatArray) -> Places:
        """Where the regions of boxes (n, 4; source pixels) at source frames (n,) are. CacheError when one is not stored."""
        at = self._region_index.find(regions_at(frames, boxes))
        self._require(at >= 0, frames, "regions of the target at ")
        return Places(self._region_places.units[at], self._region_places.rows[at])

    def read(self, name: str, places: Places, out: Tensor | None = None) -> Tensor:
        """Rows of an array, as `read_features` reads them: (n, …, C), into ``out`` where given."""
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
        """Of one row of an array. Raises CacheError when no unit has it."""
        for key in self.keys:
            if name in (arrays := self.store.arrays(key)):
                return arrays[name].shape[1:]
        raise CacheError(f"{self._where} has no array {name!r}", hint="stvg cache verify")

    def lacking(self, needs: Needs) -> tuple[IntArray, FloatArray]:
        """Of what some samples need, the frames and the regions that are not stored: (f,) and (r, 5)."""
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
                hint="repeat stvg extract with these annotations: it computes what is missing",
            )


def _require_one_video(store: Store, keys: Sequence[str], attributes: Sequence[Mapping[str, Any]]) -> None:
    first = attributes[0]
    for key, other in zip(keys[1:], attributes[1:], strict=True):
        if other["views"] != first["views"] or (
            other.get("source", {}).get("sha256") != first.get("source", {}).get("sha256")
        ):
            raise CacheError(
                f"{store.path}: {keys[0]} and {key} are of different files of the video, or of different sizes of it",
                found=f"{store.place(keys[0])} and {store.place(key)}",
                hint="remove the one that is of the wrong file, then repeat stvg extract",
            )
