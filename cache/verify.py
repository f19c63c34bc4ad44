"""Whether a cache is exactly what was written: every checksum compared, every missing, short or foreign piece named.

What can be extracted again is removed by `repair`; files this program does not know are left to their owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import TEMPORARY, abandoned, remove
from ..errors import CacheError
from ..objects import HEADER, Location
from .arrays import array_name, arrays_of, rows_of, sums_of
from .header import FORMAT, SAMPLES
from .index import PART_ROWS, Cache, read_header, text_key, video_key
from .skipped import FOLDER, NAME, SkipList
from .stores.contract import Store
from .stores.kinds import open_store

ROOMS = ("videos", "text")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be. ``remove``: what has to go so that an extraction writes it again."""

    message: str
    remove: tuple[Location, ...] = ()
    skip_lines: bool = False
    """Damaged lines of the skip list have to go."""


@dataclass
class Findings:
    """What was read, and what is wrong with it."""

    path: Location
    units: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def removable(self) -> list[Location]:
        return sorted({place for problem in self.problems for place in problem.remove}, key=str)


def verify(path: Location, jobs: int = 2, progress: Callable[[int, int], None] | None = None) -> Findings:
    """Read everything. ``progress`` is told how many units are done, of how many.

    A damaged header or table is one problem among others: units are then checked against their own records. Raises
    CacheError only where there is no cache at all.
    """
    if not path.is_dir():
        raise CacheError(f"{path} is not there", hint="make a cache with stvg extract")
    findings = Findings(path)
    cache, store = _open(path, findings)
    if cache is None and not _is_cache(path, store):
        raise CacheError(
            f"{path} is no cache",
            expected=f"{HEADER} of stvg extract, or units that it wrote",
            effect="nothing was removed",
            hint="name the folder that stvg extract --out was given",
        )
    findings.problems += _foreign(path)
    if store is None:
        return findings
    expected = _expected(cache) if cache else None
    present = [key for room in ROOMS for key in store.keys(room)]
    findings.problems += [problem for room in ROOMS for problem in _strays(store, room, expected)]
    with ThreadPoolExecutor(jobs, thread_name_prefix="verify") as pool:
        for done, problems in enumerate(pool.map(lambda key: _unit(store, cache, expected, key), present), 1):
            findings.problems += problems
            if progress:
                progress(done, len(present))
    findings.units = len(present)
    skipped, damaged = SkipList(path).survey()
    findings.problems += [Problem(f"{SkipList(path).path}, {line} is damaged", skip_lines=True) for line in damaged]
    absent = sorted((expected or set()) - set(present) - {video_key(v) for v in skipped})
    findings.problems += [Problem(f"{key} is missing: it is neither there nor listed as skipped") for key in absent]
    return findings


def repair(findings: Findings) -> list[Location]:
    """Remove what is damaged or left over, so that the next extraction writes exactly that again; returns it."""
    for place in findings.removable:
        remove(place)
    if any(problem.skip_lines for problem in findings.problems):
        skip_list = SkipList(findings.path)
        skip_list.rewrite(skip_list.survey()[0])
    return [place for place in findings.removable if not place.exists()]


def _open(path: Location, findings: Findings) -> tuple[Cache | None, Store | None]:
    """The cache and its store. A header and its table go together: where one is damaged, both are written again."""
    try:
        return (cache := Cache(path, read_header(path))), cache.store
    except CacheError as error:
        findings.problems.append(Problem(error.message, (path / HEADER, path / SAMPLES)))
    try:
        return None, open_store(path)
    except CacheError as error:
        findings.problems.append(Problem(error.message))
        return None, None


def _is_cache(path: Location, store: Store | None) -> bool:
    """Whether a folder without a sound header is a cache all the same: by what is left of it, or by one of its units."""
    header = path / HEADER
    try:
        if FORMAT.encode() in header.read_bytes():
            return True
    except OSError:
        pass
    return any(_is_unit(store, key) for room in ROOMS for key in store.keys(room)) if store else False


def _is_unit(store: Store, key: str) -> bool:
    try:
        return bool({"fingerprint", "offsets"} & store.attributes(key).keys())
    except CacheError:
        return False


def _expected(cache: Cache) -> set[str]:
    """Keys of all units the samples need."""
    parts = range(-(-cache.samples.text_count // PART_ROWS))
    return {video_key(v) for v in set(cache.samples.video_ids)} | {text_key(part) for part in parts}


def _foreign(path: Location) -> list[Problem]:
    """What lies beside the cache's own files and rooms."""
    own = {HEADER, SAMPLES, *ROOMS, NAME if isinstance(path, Path) else FOLDER}
    foreign = [entry for entry in path.iterdir() if entry.name not in own]
    return [problem for entry in foreign for problem in _stray(entry)]


def _strays(store: Store, room: str, expected: set[str] | None) -> Iterable[Problem]:
    """What lies in a room and is no complete unit: a broken one, a killed writer's, or nobody's."""
    names = {store.place(key).name for key in expected or () if key.startswith(f"{room}/")}
    for entry in store.strays(room):
        if entry.name in names:
            yield Problem(f"{entry} is an incomplete unit", (entry,))
        else:
            yield from _stray(entry)


def _stray(entry: Location) -> list[Problem]:
    if not entry.name.startswith(TEMPORARY):
        return [Problem(f"{entry} does not belong to the cache; it is left alone")]
    if isinstance(entry, Path) and not abandoned(entry):
        return []
    return [Problem(f"{entry} was left by a writer that was killed", (entry,))]


def _unit(store: Store, cache: Cache | None, expected: set[str] | None, key: str) -> list[Problem]:
    if expected is not None and key not in expected:
        return [Problem(f"{store.place(key)}: no sample asks for {key}; it is left alone")]
    found = store.check(key)
    if not found and cache:
        attributes = store.attributes(key)
        check = _text_problems if key.startswith("text/") else _video_problems
        found = [f"{key}: {problem}" for problem in check(cache, key, attributes)]
    remove = () if expected is None else (store.place(key),)  # without the samples, nobody knows whose it is
    return [Problem(message, remove) for message in found]


def _text_problems(cache: Cache, key: str, attributes: dict[str, Any]) -> Iterable[str]:
    part = int(key.removeprefix("text/"))
    for name, wanted in cache.text_attributes(part).items():
        if attributes.get(name) != wanted:
            yield f"of other sentences or another recipe: {name} {attributes.get(name)} instead of {wanted}"
    sentences = min(PART_ROWS, cache.samples.text_count - part * PART_ROWS)
    offsets, rows = attributes.get("offsets", []), cache.store.arrays(key)["hidden"].shape[0]
    if len(offsets) != sentences + 1 or offsets[-1] != rows:
        yield f"its offsets do not cover {sentences} sentences and {rows} tokens"


def _video_problems(cache: Cache, key: str, attributes: dict[str, Any]) -> Iterable[str]:
    recipe = cache.recipe
    if attributes.get("fingerprint") != recipe.fingerprint:
        yield f"written with another recipe, {attributes.get('fingerprint')} instead of {recipe.fingerprint}"
        return
    arrays = cache.store.arrays(key)
    expected = {
        array_name(name, view): len(attributes["frames" if rows_of(name) == "frame" else "roi_frames"])
        for view in range(len(attributes["views"]))
        for name in arrays_of(recipe)
    }
    for name, rows in {**expected, **{sums_of(level.name): 2 for level in recipe.levels}}.items():
        if name not in arrays:
            yield f"array {name} is missing"
        elif arrays[name].shape[0] != rows:
            yield f"array {name} has {arrays[name].shape[0]} rows instead of {rows}"
