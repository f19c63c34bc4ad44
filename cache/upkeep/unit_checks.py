"""Checks of an intact unit against its key and the recipe of the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays import array_name, arrays_of, rows_of, sums_of
from ..index import Cache
from ..texts import HASH_BYTES, text_key
from ..video_unit import MORE, REGIONS, more_key, video_of


def problems_of(cache: Cache, key: str) -> Iterator[str]:
    """The faults of a complete unit with valid checksums, one line each."""
    attributes = cache.store.attributes(key)
    if attributes.get("fingerprint") != cache.recipe.fingerprint:
        yield f"written with another recipe, {attributes.get('fingerprint')} instead of {cache.recipe.fingerprint}"
    elif key.startswith("text/"):
        yield from _text_problems(cache, key)
    else:
        yield from _video_problems(cache, key)


def _text_problems(cache: Cache, key: str) -> Iterator[str]:
    arrays = cache.store.arrays(key)
    if missing := [name for name in ("hashes", "offsets", "hidden") if name not in arrays]:
        yield f"array {', '.join(missing)} is missing"
        return
    hashes, offsets = (cache.store.read(key, name) for name in ("hashes", "offsets"))
    if hashes.shape[1:] != (HASH_BYTES,) or text_key(hashes) != key:
        yield "its sentences do not match its name"
    rows = arrays["hidden"].shape[0]
    if len(offsets) != len(hashes) + 1 or offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        yield f"its offsets do not cover {len(hashes)} sentences and {rows} tokens"


def _video_problems(cache: Cache, key: str) -> Iterator[str]:
    recipe, arrays, attributes = cache.recipe, cache.store.arrays(key), cache.store.attributes(key)
    frames = len(attributes["frames"])
    regions = arrays[REGIONS].shape[0] if REGIONS in arrays else 0
    rows = {"frame": frames, "region": regions}
    expected = {REGIONS: regions} if recipe.keeps_regions else {}
    for view in range(len(attributes["views"])):
        expected |= {array_name(name, view): rows[rows_of(name)] for name in arrays_of(recipe)}
    expected |= {sums_of(level.name): 2 for level in recipe.levels}
    if not frames:
        expected = {name: count for name, count in expected.items() if rows_of(name) == "region" or name == REGIONS}
    for name, count in expected.items():
        if name not in arrays:
            yield f"array {name} is missing"
        elif arrays[name].shape[0] != count:
            yield f"array {name} has {arrays[name].shape[0]} rows instead of {count}"
    if key.startswith(f"{MORE}/"):
        held = cache.store.read(key, REGIONS) if REGIONS in arrays else np.empty((0, 5))
        if more_key(video_of(key), np.asarray(attributes["frames"], np.int64), held) != key:
            yield "its frames and regions do not match its name"
