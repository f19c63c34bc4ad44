"""Several caches of one recipe as one, whatever their annotations: what an array of jobs, or several people, extracted.

On one file system units are linked, not copied; what is linked is stored once and never changed. Everything that could
be in conflict is looked at before anything is written.
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
    """Make ``out`` of ``shards``, or add them to it; returns the number of units that were not there yet.

    Annotation sets of one name become one, samples in the order of the shards, each once. Raises CacheError, before
    anything is written, for another recipe (field by field), another store, and a unit or a sample that two shards hold
    differently.
    """
    folders = [path.resolve() for path in (out, *shards) if isinstance(path, Path)]
    if len(folders) != 1 + len(shards):
        raise UsageError("caches are merged in local folders", hint="extract into object storage directly: no merge")
    if len(set(folders)) != len(folders):
        raise UsageError("a cache cannot be merged with itself", hint="name every folder once")
    caches = [Cache.open(path) for path in shards]
    there = Cache.open(out) if (out / HEADER).exists() else None
    first = there or caches[0]
    for cache in caches:
        cache.recipe.require_equal(first.recipe, cache.path)
        if cache.header.store != first.header.store:
            hint = f"stvg cache convert {cache.path} FOLDER --store {first.header.store}"
            raise CacheError(f"{cache.path} holds {cache.header.store} units, {first.path} others", hint=hint)
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
    """The versions of libraries that any of some caches were made with."""
    names = dict.fromkeys(name for cache in caches for name in cache.header.versions)
    return {n: ", ".join(sorted({c.header.versions.get(n, "unknown") for c in caches})) for n in names}


def link_unit(source: Store, target: Store, key: str, target_key: str) -> bool:
    """Give a unit a second name below ``target``; under another key, or across file systems, a checked copy.

    False if one was there.
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
