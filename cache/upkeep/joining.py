"""What caches of one recipe have that another lacks: units and annotation sets. Both `merge` and `convert` go by it.

Nothing here writes a unit, and no feature is ever computed or rounded again.
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
    """A unit of a cache, and under which key it belongs in another."""

    holder: Cache
    key: str
    target: str


def moves(target: Cache | None, sources: Sequence[Cache], compare: bool = True) -> list[Move]:
    """The units of some caches that another one lacks; ``target``: None while it is not made.

    ``compare``: read what two of them hold; without it, units that say the same of themselves are taken for equal.
    Raises CacheError for a unit that two of them hold with different bytes, and for a video of different files.
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
    """The units of one video: those of the first cache as they are; of the others what adds a frame or a region."""
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
            f"{one.path} and {other.path} hold video {video_id} of different files, or in different sizes",
            effect="it is not known which is right; nothing was written",
            hint="remove the units of the wrong file from one of them",
        )


def require_same_unit(one: Move, other: Move) -> None:
    """CacheError when two caches hold other features of the same. How and from which copy of a file is no matter."""
    a, b = (Path(str(move.holder.store.place(move.key))) for move in (one, other))
    names = [{p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()} for top in (a, b)]
    same_files = a.exists() and names[0] == names[1] and all(_same_file(a / n, b / n) for n in names[0] or {""})
    if not same_files and not _same_content(one.holder.store, one.key, other.holder.store, other.key):
        raise CacheError(
            f"{other.key} is stored twice, with different bytes",
            found=f"{one.holder.store.place(one.key)} and {other.holder.store.place(other.key)}",
            effect="it is not known which is right; nothing was written",
            hint="stvg cache verify each of them; remove one of the two units",
        )


def _same_file(a: Path, b: Path) -> bool:
    return os.path.samefile(a, b) or (a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False))


def _same_content(one: Store, key: str, other: Store, other_key: str) -> bool:
    """Whether two units hold the same arrays and say the same of them, but for when their video files were written."""

    def said(store: Store, key: str) -> dict[str, Any]:
        attributes = dict(store.attributes(key))
        source = {k: v for k, v in attributes.pop("source", {}).items() if k != "mtime_ns"}
        return attributes | ({"source": source} if source else {})

    a, b = said(one, key), said(other, other_key)
    if "source" not in a or "source" not in b:  # one of them does not say
        a.pop("source", None), b.pop("source", None)
    if a != b or one.arrays(key).keys() != other.arrays(other_key).keys():
        return False
    if any(facts.shape != other.arrays(other_key)[name].shape for name, facts in one.arrays(key).items()):
        return False
    return all(one.read(key, name).tobytes() == other.read(other_key, name).tobytes() for name in one.arrays(key))


def united_sets(target: Cache | None, sources: Sequence[Cache]) -> list[AnnotationSet]:
    """The annotation sets of all these caches; those of one name are one. Raises CacheError where they contradict."""
    found: dict[str, AnnotationSet] = {}
    for cache in [*([target] if target else []), *sources]:
        for name in set_names(cache.path):
            read = read_set(cache.path, name)
            found[name] = found[name].united_with(read, cache.path) if name in found else read
    return list(found.values())
