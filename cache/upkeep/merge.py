"""Merge caches of one recipe into one, such as the results of an array of jobs or of several people.

Their annotations may differ. Within a file system, units are hard-linked instead of copied, so they are stored once;
units never change after they are written. All conflicts are detected before anything is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ...atomic import UNLINKABLE, make_folder, remove, temporary_name
from ...errors import CacheError, UsageError
from ...objects import HEADER, Location
from ..index import Cache
from ..set_files import put_set
from ..stores.contract import Store
from .convert import copy_skips, copy_unit
from .joining import moves, united_sets


def merge(out: Location, shards: Sequence[Location], progress: Callable[[int, int], None] | None = None) -> int:
    """Create ``out`` from ``shards``, or add them to it. Returns the number of new units.

    Annotation sets of one name are united: every sample once, in the order of the shards. Before anything is written,
    raises CacheError for another recipe (with the differing fields), another store, and for a unit or sample with
    different content in two shards.
    """
    folders = [path.resolve() for path in (out, *shards) if isinstance(path, Path)]
    if len(folders) != 1 + len(shards):
        raise UsageError("a merge needs local folders", hint="extract directly into one cache in object storage")
    if len(set(folders)) != len(folders):
        raise UsageError("a cache cannot be merged with itself", hint="give every folder once")
    caches = [Cache.open(path) for path in shards]
    there = Cache.open(out) if (out / HEADER).exists() else None
    first = there or caches[0]
    for cache in caches:
        cache.recipe.require_equal(first.recipe, cache.path)
        if cache.header.store != first.header.store:
            hint = f"stvg cache convert {cache.path} FOLDER --store {first.header.store}"
            raise CacheError(f"{cache.path} holds {cache.header.store} units, {first.path} does not", hint=hint)
    sets, units = united_sets(there, caches), moves(there, caches)
    merged = there or Cache.create(out, first.recipe, first.header.store, versions_of(caches))
    for one in sets:
        put_set(out, one)
    written = 0
    for done, move in enumerate(units, 1):
        written += link_unit(move.holder.store, merged.store, move.key, move.target)
        if progress:
            progress(done, len(units))
    for cache in caches:
        copy_skips(cache, merged)
    return written


def versions_of(caches: Sequence[Cache]) -> dict[str, str]:
    """All versions of each library that the caches were made with."""
    names = dict.fromkeys(name for cache in caches for name in cache.header.versions)
    return {n: ", ".join(sorted({c.header.versions.get(n, "unknown") for c in caches})) for n in names}


def link_unit(source: Store, target: Store, key: str, target_key: str) -> bool:
    """Hard-link a unit into ``target``. For another key or another file system, make a verified copy.

    Returns False if the target has the unit already.
    """
    if key != target_key:
        return copy_unit(source, target, key, target_key)
    place, final = source.place(key), target.place(key)
    assert isinstance(place, Path), place
    assert isinstance(final, Path), final
    make_folder(final.parent)
    temporary = final.parent / temporary_name()
    try:
        if place.is_dir():
            shutil.copytree(place, temporary, copy_function=os.link)
        else:
            os.link(place, temporary)
        return target.publish(key, temporary)
    except (OSError, shutil.Error) as error:
        if isinstance(error, OSError) and error.errno not in (*UNLINKABLE, None):
            raise
        return copy_unit(source, target, key, key)
    finally:
        remove(temporary)
