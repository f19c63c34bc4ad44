"""Convert a cache to another store, with identical bytes of all features.

Units are copied block by block, so memory use is constant. Every checksum of the source is compared. Repeating an
interrupted conversion continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from ...errors import CacheError
from ...objects import HEADER, Location
from ..index import Cache
from ..set_files import put_set
from ..stores.contract import Store
from .joining import moves, united_sets

BLOCK_BYTES = 4 * 1024 * 1024


def convert(
    source: Location,
    target: Location,
    store: str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the cache at ``source`` to ``target`` in a ``store``. Returns the number of new units.

    Raises CacheError if a unit of the source is damaged (that unit is not written), or if ``target`` holds a cache with
    another recipe or with other content under the same names.
    """
    if source == target:
        raise CacheError(f"{source} cannot be converted into itself", hint="give another target folder")
    cache = Cache.open(source)
    there = None
    if (target / HEADER).exists():
        there = Cache.create(target, cache.recipe, store, cache.header.versions)
    sets, units = united_sets(there, [cache]), moves(there, [cache], compare=False)
    other = there or Cache.create(target, cache.recipe, store, cache.header.versions)
    for one in sets:
        put_set(target, one)
    written = 0
    for done, move in enumerate(units, 1):
        written += copy_unit(cache.store, other.store, move.key, move.target)
        if progress:
            progress(done, len(units))
    copy_skips(cache, other)
    return written


def copy_skips(source: Cache, target: Cache) -> None:
    """Copy the source's skip list, except entries that the target has and videos that the target has features of."""
    listed = target.skip_list.read()
    target.look_again()
    for video_id, reason in source.skipped().items():
        if listed.get(video_id) != reason and not target.unit_keys(video_id):
            target.skip(video_id, reason)


def copy_unit(source: Store, target: Store, key: str, target_key: str) -> bool:
    """Copy a unit and verify the checksums of the source. Returns False if the target has the unit by then."""
    with target.writer(target_key) as unit:
        arrays = source.arrays(key)
        for name, facts in arrays.items():
            unit.add(name, facts.shape, facts.dtype, facts.attributes)
        for name in arrays:
            for block in blocks(source, key, name):
                unit.append(name, block)
        return unit.commit(source.attributes(key))


def blocks(store: Store, key: str, name: str) -> Iterator[NDArray[Any]]:
    """The rows of an array in blocks of about `BLOCK_BYTES`."""
    facts = store.arrays(key)[name]
    step = facts.rows_per_chunk * max(1, BLOCK_BYTES // facts.chunk_bytes) if facts.chunks else 1
    for at in range(0, facts.shape[0], step):
        yield store.read(key, name, slice(at, at + step))
