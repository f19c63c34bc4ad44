"""How a cache begins: its table of samples, then its header, which only one of several extractors writes.

The header holds the checksum of the table. Whoever comes later works on that table, whatever was read meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..atomic import TEMPORARY, make_folder, write_atomic, write_once
from ..errors import CacheError
from ..objects import HEADER, Location
from .header import SAMPLES, Header
from .schema import Recipe, Sample, same_sample
from .stores.kinds import kinds_of, open_store
from .table import SampleTable

WAITS, PAUSE_SECONDS = 20, 0.1
"""How often, and for how long, another extractor's table may wait for its header before it counts as a leftover."""


def make(path: Location, header: Header, table: bytes) -> bool:
    """Write table and header of a new cache, the header last. False, and nothing is decided, when another was first."""
    require_room(path, header.recipe, header.store)
    open_store(path, header.store)  # refuses what this place cannot hold
    make_folder(path)
    place_table(path, table)
    if not write_once(path / HEADER, header.to_bytes()):
        return False
    if (path / SAMPLES).read_bytes() != table:  # one that took ours for a leftover
        write_atomic(path / SAMPLES, table)
    return True


def place_table(path: Location, table: bytes) -> None:
    """Write the table, but not over that of an extractor that is about to write its header."""
    for _ in range(WAITS):
        if write_once(path / SAMPLES, table) or (path / SAMPLES).read_bytes() == table or (path / HEADER).exists():
            return
        time.sleep(PAUSE_SECONDS)
    write_atomic(path / SAMPLES, table)


def require_room(path: Location, recipe: Recipe, store: str) -> None:
    """A new cache needs an empty folder, or units whose header was lost: these must be of this recipe and store."""
    found_names = (entry.name for entry in path.iterdir()) if path.is_dir() else ()
    # What others write aside at this moment is no reason: several extractors may begin at once.
    present = {name for name in found_names if not name.startswith(TEMPORARY)}
    if present and not present & {"videos", SAMPLES, HEADER}:
        raise CacheError(f"{path} is not empty and not a cache", hint="choose another --out folder")
    for kind in kinds_of(path) if "videos" in present else ():
        units = open_store(path, kind)
        for key in units.keys("videos")[:1]:
            found = {"store": kind, "fingerprint": units.attributes(key)["fingerprint"]}
            if found != {"store": store, "fingerprint": recipe.fingerprint}:
                raise CacheError(
                    f"{path} has no {HEADER}, but units of another cache",
                    expected=f"store {store}, fingerprint {recipe.fingerprint}",
                    found=f"store {found['store']}, fingerprint {found['fingerprint']}",
                    effect="nothing was written",
                    hint="use the options they were made with, or another --out folder",
                )


def require_same_table(found: Header, wanted: Header, path: Location) -> None:
    """Refuse a cache of another store, or with another table, byte for byte."""
    if (found.store, found.samples_file) != (wanted.store, wanted.samples_file):
        says = "store {0}, samples of {1[0]:,} bytes, crc32c {1[1]:08x}"
        raise CacheError(
            f"{path} holds another cache",
            expected=says.format(wanted.store, wanted.samples_file),
            found=says.format(found.store, found.samples_file),
            effect="nothing was written",
            hint="name another folder",
        )


@dataclass(frozen=True)
class Difference:
    """How samples read now differ from those of a cache: counts."""

    stored: int
    read: int
    gone: int
    """Of the cache's, not read now."""
    new: int
    """Read now, not of the cache."""
    changed: int

    @classmethod
    def of(cls, table: SampleTable, samples: Sequence[Sample]) -> Difference:
        if isinstance(samples, SampleTable) and samples.expected == table.expected:
            return cls(len(table), len(table), 0, 0, 0)
        rows = {(table.splits[row], table.sample_id(row)): row for row in range(len(table))}
        new = changed = 0
        for sample in samples:
            row = rows.pop((sample.split, sample.sample_id), None)
            new += row is None
            changed += row is not None and not same_sample(table[row], sample)
        return cls(len(table), len(samples), len(rows), new, changed)

    def __bool__(self) -> bool:
        return bool(self.gone or self.new or self.changed)

    def __str__(self) -> str:
        return (
            f"{self.stored:,} in the cache, {self.read:,} read now; {self.gone:,} only in the cache, "
            f"{self.new:,} only now, {self.changed:,} changed"
        )


def other_rules(made: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> dict[str, str]:
    """The options by which samples were chosen, where those of a cache and those asked for are known and differ."""
    if made is None or asked is None:
        return {}
    names = [name for name in {**made, **asked} if made.get(name) != asked.get(name)]
    return {name: f"cache has {_plain(made.get(name))}, asked for {_plain(asked.get(name))}" for name in names}


def require_same_samples(
    table: SampleTable, samples: Sequence[Sample], rules: Mapping[str, str], path: Location
) -> None:
    """Refuse other samples than a cache was made of. ``rules``: see `other_rules`."""
    if difference := Difference.of(table, samples):
        raise CacheError(
            f"{path} was made of other samples",
            samples=difference,
            **rules,
            effect="nothing was read or written",
            hint="use the options the cache was made with, or another --out folder",
        )


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
