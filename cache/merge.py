"""Several caches of one recipe as one: what an array of jobs wrote into folders of their own.

On one file system units are linked, not copied; what is linked is stored once and never changed. Everything that could
be in conflict is looked at before anything is written.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..atomic import UNLINKABLE, make_folder, remove, temporary_name
from ..errors import CacheError, UsageError
from ..objects import Location
from .convert import blocks, copy_skips, copy_unit
from .header import SAMPLES
from .index import PART_ROWS, Cache, text_key
from .making import other_rules
from .schema import Sample, same_sample
from .stores.contract import Store
from .stores.quantise import FeatureWriter
from .table import to_parquet


def merge(out: Location, shards: Sequence[Location], progress: Callable[[int, int], None] | None = None) -> int:
    """Make ``out`` of ``shards``, or go on with it; returns the number of units that were not there yet.

    Samples come in the order of the shards, each once. Raises CacheError, before anything is written, for another recipe
    (field by field), another store, and a unit or a sample that two shards hold differently.
    """
    folders = [path.resolve() for path in (out, *shards) if isinstance(path, Path)]
    if len(folders) != 1 + len(shards):
        raise UsageError("caches are merged in local folders", hint="extract into object storage directly: no merge")
    if len(set(folders)) != len(folders):
        raise UsageError("a cache cannot be merged with itself", hint="name every folder once")
    caches = [Cache.open(path) for path in shards]
    first = caches[0]
    for cache in caches[1:]:
        cache.recipe.require_equal(first.recipe, cache.path)
        if cache.header.store != first.header.store:
            hint = f"stvg cache convert {cache.path} FOLDER --store {first.header.store}"
            raise CacheError(f"{cache.path} holds {cache.header.store} units, {first.path} others", hint=hint)
    one_table = len({cache.header.samples_file for cache in caches}) == 1
    for cache in caches if not one_table else ():
        _require_same_rules(first, cache)
    if not one_table and first.recipe.dtype == "uint8":
        raise CacheError(
            "token features in uint8 cannot be put into another order without loss",
            effect="nothing was written",
            hint="extract every shard with all samples and --shard; its table is then the same",
        )
    holders = _holders(caches, ("text", "videos") if one_table else ("videos",))
    merged = _begin(out, caches, one_table)
    if not one_table:
        _write_text(merged, caches)
    written = 0
    for done, (key, holder) in enumerate(holders.items(), 1):
        if not merged.store.contains(key):
            written += link_unit(holder.store, merged.store, key)
        else:
            _require_same_unit(holder, merged, key)
        if progress:
            progress(done, len(holders))
    for cache in caches:
        copy_skips(cache, merged)
    return written


def _require_same_rules(one: Cache, other: Cache) -> None:
    """Refuse samples that were chosen otherwise: each video was extracted for those of its own shard alone."""
    if rules := other_rules(one.header.admitted_by, other.header.admitted_by):
        raise CacheError(
            f"{one.path} and {other.path} were made of other samples",
            samples=f"{len(one.samples):,} and {len(other.samples):,}",
            **{
                name: rule.replace("cache has", "the first has").replace("asked for", "the second")
                for name, rule in rules.items()
            },
            effect="nothing was written",
            hint="extract every shard with the same options",
        )


def link_unit(source: Store, target: Store, key: str) -> bool:
    """Give a unit a second name below ``target``; across file systems, a checked copy. False if one was there."""
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
        return copy_unit(source, target, key)
    finally:
        remove(temporary)


def _holders(caches: Iterable[Cache], rooms: Sequence[str]) -> dict[str, Cache]:
    """Every unit and the first cache that holds it. CacheError when a later one holds it with other bytes."""
    found: dict[str, Cache] = {}
    for cache in caches:
        for key in (key for room in rooms for key in cache.store.keys(room)):
            if key in found:
                _require_same_unit(found[key], cache, key)
            else:
                found[key] = cache
    return found


def _require_same_unit(one: Cache, other: Cache, key: str) -> None:
    """CacheError when two caches hold other features under a key. How and from which copy of a file is no matter."""
    a, b = (Path(str(cache.store.place(key))) for cache in (one, other))
    names = [{p.relative_to(top).as_posix() for p in top.rglob("*") if p.is_file()} for top in (a, b)]
    same_files = names[0] == names[1] and all(_same_file(a / name, b / name) for name in names[0] or {""})
    if not same_files and not _same_content(one.store, other.store, key):
        raise CacheError(
            f"{key} is stored twice, with different bytes",
            found=f"{a} and {b}",
            effect="it is not known which is right",
            hint="stvg cache verify each of them; remove one of the two units",
        )


def _same_file(a: Path, b: Path) -> bool:
    return os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False)


def _same_content(one: Store, other: Store, key: str) -> bool:
    """Whether two units hold the same arrays and say the same of them, but for when their video files were written."""
    a, b = (
        {**store.attributes(key), "source": dict(store.attributes(key).get("source", {}))} for store in (one, other)
    )
    for attributes in (a, b):
        attributes["source"].pop("mtime_ns", None)
    if not a["source"] or not b["source"]:  # an older unit does not say
        a["source"] = b["source"] = {}
    if a != b or one.arrays(key) != other.arrays(key):
        return False
    return all(
        x.tobytes() == y.tobytes()
        for name in one.arrays(key)
        for x, y in zip(blocks(one, key, name), blocks(other, key, name), strict=True)
    )


def _begin(out: Location, caches: Sequence[Cache], one_table: bool) -> Cache:
    first = caches[0]
    if one_table:
        table, counts = (first.path / SAMPLES).read_bytes(), first.header.counts
    else:
        samples = _union(caches)
        table = to_parquet(samples)
        counts = {"samples": len(samples), "videos": len({s.video.video_id for s in samples})}
    names = dict.fromkeys(name for cache in caches for name in cache.header.versions)
    versions = {n: ", ".join(sorted({c.header.versions.get(n, "unknown") for c in caches})) for n in names}
    rules = [cache.header.admitted_by for cache in caches]
    same = rules[0] if all(rule == rules[0] for rule in rules) else None
    how = (first.header.store, counts, versions, same)
    return Cache.begin(out, first.recipe, table, *how)


def _union(caches: Iterable[Cache]) -> list[Sample]:
    """The samples of all caches, each once. CacheError when two differ under one id."""
    found: dict[tuple[str, int | str], Sample] = {}
    for cache in caches:
        for sample in cache.samples:
            known = found.setdefault((sample.split, sample.sample_id), sample)
            if known is not sample and not same_sample(known, sample):
                raise CacheError(
                    f"{cache.path}: sample {sample.sample_id} of {sample.split} differs from another shard's",
                    effect="nothing was written",
                    hint="merge caches of the same annotations",
                )
    return list(found.values())


def _write_text(merged: Cache, caches: Iterable[Cache]) -> None:
    """Token features of the merged table's sentences, whose rows are others than in the shards."""
    sources: dict[str, tuple[Cache, int]] = {}
    for cache in caches:
        for row in range(cache.samples.text_count):
            sources.setdefault(cache.samples.sentence(row), (cache, row))
    for part, start in enumerate(range(0, merged.samples.text_count, PART_ROWS)):
        if merged.store.contains(text_key(part)):
            continue
        rows = range(start, min(start + PART_ROWS, merged.samples.text_count))
        chosen = (sources[merged.samples.sentence(row)] for row in rows)
        features = [cache.text(row).float().numpy() for cache, row in chosen]
        offsets = np.cumsum([0, *map(len, features)])
        with merged.store.writer(text_key(part)) as unit:
            writer = FeatureWriter(unit, merged.recipe.dtype)
            writer.add("hidden", (int(offsets[-1]), *features[0].shape[1:]), "token")
            for block in features:
                writer.append("hidden", block, f"text features of part {part}")
            unit.commit({"offsets": offsets.tolist(), **merged.text_attributes(part)})
