"""Plan of a merge or conversion: the units and annotation sets that the target lacks.

Nothing here writes a unit. Features are copied without being decoded or rounded.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CacheError
from ..annotations import AnnotationSet
from ..index import Cache
from ..needs import RegionIndex
from ..sampling import FloatArray, IntArray
from ..set_files import read_set, set_names
from ..stores.contract import Store
from ..video_unit import REGIONS, more_key, video_key


@dataclass(frozen=True)
class Move:
    """A unit of a cache, and its key in the target."""

    holder: Cache
    key: str
    target: str


def moves(target: Cache | None, sources: Sequence[Cache], compare: bool = True) -> list[Move]:
    """The units of the sources that the target lacks. ``target``: None if it does not exist yet.

    ``compare``: compare the content of units that several caches hold. Without it, text units with equal keys and video
    units with equal frames and regions are assumed to be equal.
    Raises CacheError for units of one key with different content, and for a video of different files or sizes.
    """
    caches = [*([target] if target else []), *sources]
    found: dict[str, Move] = {}
    for cache in caches:
        for key in cache.store.keys("text"):
            _take(found, Move(cache, key, key), compare)
    held: dict[str, list[Cache]] = {}
    for cache in caches:
        for video_id in sorted(cache.complete()):
            held.setdefault(video_id, []).append(cache)
    for video_id, holders in held.items():
        _take_video(found, video_id, holders, compare)
    return [move for move in found.values() if move.holder is not target]


def _take(found: dict[str, Move], move: Move, compare: bool) -> None:
    if move.target not in found:
        found[move.target] = move
    elif compare:
        require_same_unit(found[move.target], move)


def _take_video(found: dict[str, Move], video_id: str, holders: Sequence[Cache], compare: bool) -> None:
    """The units of one video: all of the first cache, and those of the others that add a frame or a region."""
    if len(holders) == 1:
        for key in holders[0].unit_keys(video_id):
            found[key] = Move(holders[0], key, key)
        return
    taken: dict[bytes, Move] = {}
    frames, regions = np.empty(0, np.int64), np.empty((0, 5))
    for cache in holders:
        _require_same_video(holders[0], cache, video_id)
        for key in cache.unit_keys(video_id):
            own_frames, own_regions = _held(cache, key)
            content = own_frames.tobytes() + b"|" + own_regions.tobytes()
            if content in taken:
                if compare:
                    require_same_unit(taken[content], Move(cache, key, key))
                continue
            more = len(np.setdiff1d(own_frames, frames)) or (RegionIndex(regions).find(own_regions) < 0).any()
            free = key not in found and (key == video_key(video_id) or cache is holders[0])
            target = key if free else more_key(video_id, own_frames, own_regions)
            move = taken[content] = Move(cache, key, target)
            if more or cache is holders[0]:
                _take(found, move, compare)
                frames, regions = np.union1d(frames, own_frames), np.concatenate([regions, own_regions])


def _held(cache: Cache, key: str) -> tuple[IntArray, FloatArray]:
    frames = np.asarray(cache.store.attributes(key)["frames"], dtype=np.int64)
    has_regions = REGIONS in cache.store.arrays(key)
    return frames, cache.store.read(key, REGIONS) if has_regions else np.empty((0, 5))


def _require_same_video(one: Cache, other: Cache, video_id: str) -> None:
    a, b = one.unit(video_id), other.unit(video_id)
    files = [unit.source.get("sha256") for unit in (a, b)]
    if a.views != b.views or (all(files) and files[0] != files[1]):
        raise CacheError(
            f"{one.path} and {other.path} hold features of different files or sizes of video {video_id}",
            effect="nothing was written: it is unknown which of them is correct",
            hint="remove the units of the wrong file from one of them",
        )


def require_same_unit(one: Move, other: Move) -> None:
    """Raise CacheError if two units of one key hold different features. Storage details and file dates may differ."""
    a, b = (Path(str(move.holder.store.place(move.key))) for move in (one, other))
    names = [{p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()} for top in (a, b)]
    same_files = a.exists() and names[0] == names[1] and all(_same_file(a / n, b / n) for n in names[0] or {""})
    if not same_files and not _same_content(one.holder.store, one.key, other.holder.store, other.key):
        raise CacheError(
            f"{other.key} is stored twice, with different content",
            found=f"{one.holder.store.place(one.key)} and {other.holder.store.place(other.key)}",
            effect="nothing was written: it is unknown which of them is correct",
            hint="run stvg cache verify on both caches, then remove one of the two units",
        )


def _same_file(a: Path, b: Path) -> bool:
    return os.path.samefile(a, b) or (a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False))


def _same_content(one: Store, key: str, other: Store, other_key: str) -> bool:
    """Whether two units have equal arrays and attributes, except for the modification time of the video file."""

    def said(store: Store, key: str) -> dict[str, Any]:
        attributes = dict(store.attributes(key))
        source = {k: v for k, v in attributes.pop("source", {}).items() if k != "mtime_ns"}
        return attributes | ({"source": source} if source else {})

    a, b = said(one, key), said(other, other_key)
    if "source" not in a or "source" not in b:  # not recorded in one of them
        a.pop("source", None), b.pop("source", None)
    if a != b or one.arrays(key).keys() != other.arrays(other_key).keys():
        return False
    if any(facts.shape != other.arrays(other_key)[name].shape for name, facts in one.arrays(key).items()):
        return False
    return all(one.read(key, name).tobytes() == other.read(other_key, name).tobytes() for name in one.arrays(key))


def united_sets(target: Cache | None, sources: Sequence[Cache]) -> list[AnnotationSet]:
    """The annotation sets of all caches, united by name.

    Raises CacheError if sets of one name contradict each other.
    """
    found: dict[str, AnnotationSet] = {}
    for cache in [*([target] if target else []), *sources]:
        for name in set_names(cache.path):
            read = read_set(cache.path, name)
            found[name] = found[name].united_with(read, cache.path) if name in found else read
    return list(found.values())
