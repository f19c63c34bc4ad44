"""Verification of a cache: compares every checksum, and reports every missing, short or foreign part.

`repair` removes what an extraction can write again. Foreign files are never removed. A unit that no annotation set
needs is not a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...atomic import TEMPORARY, abandoned, original_name, remove
from ...errors import CacheError
from ...objects import HEADER, Location
from ...wording import counted
from ..annotations import AnnotationSet
from ..header import FORMAT
from ..index import Cache, read_header
from ..set_files import FOLDER as SETS
from ..set_files import read_set, set_names, tables_of
from ..skipped import FOLDER, NAME, SkipList
from ..stores.contract import Store
from ..stores.kinds import open_store
from ..stores.unit import FOREIGN
from ..video_unit import MORE, ROOM
from .coverage import lacks
from .unit_checks import problems_of

ROOMS = (ROOM, MORE, "text")


@dataclass(frozen=True)
class Problem:
    """One fault. ``remove``: the files and folders to remove, so that the next extraction writes them again."""

    message: str
    remove: tuple[Location, ...] = ()
    skip_lines: bool = False
    """True if the fault is a damaged line of the skip list, which a repair removes."""


@dataclass
class Findings:
    """Result of a verification: the number of units read, and all faults."""

    path: Location
    units: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def removable(self) -> list[Location]:
        return sorted({place for problem in self.problems for place in problem.remove}, key=str)


def verify(path: Location, jobs: int = 2, progress: Callable[[int, int], None] | None = None) -> Findings:
    """Read a whole cache. ``progress`` receives the number of finished units and their total.

    A damaged header or annotation set is reported like other faults. Units are then checked against their own records.
    Raises CacheError only if there is no cache.
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
            hint="give the folder of stvg extract --out",
        )
    sets, faults = _sets(path)
    findings.problems += [*_foreign(path), *faults]
    skipped, damaged = SkipList(path).survey()
    findings.problems += [Problem(f"{SkipList(path).path}, {line} is damaged", skip_lines=True) for line in damaged]
    if store is None:
        return findings
    videos = {video_id for one in sets for video_id in one.samples.rows_of_videos}
    present = [key for room in ROOMS for key in store.keys(room)]
    findings.problems += [problem for room in ROOMS for problem in _strays(store, room, videos)]
    with ThreadPoolExecutor(jobs, thread_name_prefix="verify") as pool:
        for done, problems in enumerate(pool.map(lambda key: _unit(store, cache, key), present), 1):
            findings.problems += problems
            if progress:
                progress(done, len(present))
    findings.units = len(present)
    seen = [cache.seen_through(one) for one in sets] if cache else []
    findings.problems += [Problem(line) for through in seen for line in _lacking(through, skipped)]
    return findings


def repair(findings: Findings) -> list[Location]:
    """Remove damaged parts and leftovers. Returns the removed paths. The next extraction writes these parts again."""
    for place in findings.removable:
        remove(place)
    if any(problem.skip_lines for problem in findings.problems):
        skip_list = SkipList(findings.path)
        skip_list.rewrite(skip_list.survey()[0])
    return [place for place in findings.removable if not place.exists()]


def _open(path: Location, findings: Findings) -> tuple[Cache | None, Store | None]:
    """The cache and its store; None for what cannot be opened."""
    try:
        return (cache := Cache(path, read_header(path))), cache.store
    except CacheError as error:
        findings.problems.append(Problem(error.message, (path / HEADER,)))
    try:
        return None, open_store(path)
    except CacheError as error:
        findings.problems.append(Problem(error.message))
        return None, None


def _sets(path: Location) -> tuple[list[AnnotationSet], list[Problem]]:
    """The intact annotation sets, and the faults in their folder."""
    found, problems, known = [], [], set()
    for name in set_names(path):
        files = [path / SETS / f"{name}.json", *tables_of(path, name)]
        known |= {file.name for file in files}
        try:
            annotations = read_set(path, name)
            _ = annotations.samples.boxes  # opening a table does not read this column
            found.append(annotations)
            current = annotations.samples.place
            problems += [
                Problem(f"{file} is an outdated table of set {name}", (file,)) for file in files[1:] if file != current
            ]
        except CacheError as error:
            problems.append(Problem(error.message, tuple(files)))
    entries = (path / SETS).iterdir() if (path / SETS).is_dir() else ()
    for entry in entries:
        if entry.name in known:
            continue
        if re.fullmatch(r".+\.[0-9a-f]{16}\.parquet", entry.name):
            header = f"{entry.name.rsplit('.', 2)[0]}.json"
            problems.append(Problem(f"{entry} is a table without its annotation set: {header} is missing", (entry,)))
        else:
            problems += _stray(entry)
    return found, problems


def _lacking(cache: Cache, skipped: Iterable[str]) -> Iterator[str]:
    """One line for each video or text part that the selected set needs and the cache lacks."""
    name = f"annotation set {cache.annotations.name}"
    for lack in lacks(cache):
        if lack.other_file:
            yield f"video {lack.video_id} is of another file or size than in {name}; repeat stvg extract for details"
        elif lack.all and lack.video_id not in skipped:
            yield f"videos/{lack.video_id} is missing: {name} needs it, and it is not in the skip list"
        elif not lack.all:
            yield f"video {lack.video_id} lacks {lack} that {name} needs"
    try:
        missing = cache.lacking_sentences()
    except CacheError:  # a damaged unit, which is reported elsewhere
        return
    if missing:
        yield f"text: {counted(len(missing), 'sentence')} of {name} are missing, such as {missing[0]!r}"


def _is_cache(path: Location, store: Store | None) -> bool:
    """Whether a folder without an intact header is a cache: judged by the header's content or by its units."""
    header = path / HEADER
    try:
        if FORMAT.encode() in header.read_bytes():
            return True
    except OSError:
        pass
    return any(_is_unit(store, key) for room in ROOMS for key in store.keys(room)) if store else False


def _is_unit(store: Store, key: str) -> bool:
    try:
        return "fingerprint" in store.attributes(key)
    except CacheError:
        return False


def _foreign(path: Location) -> list[Problem]:
    """Faults for entries of the cache folder that are not its own files and rooms."""
    own = {HEADER, SETS, *ROOMS, NAME if isinstance(path, Path) else FOLDER}
    foreign = [entry for entry in path.iterdir() if entry.name not in own]
    return [problem for entry in foreign for problem in _stray(entry)]


def _strays(store: Store, room: str, videos: set[str]) -> Iterable[Problem]:
    """Faults for entries of a room that are not complete units: broken units, temporaries, foreign files."""
    names = {store.place(f"{ROOM}/{video_id}").name for video_id in videos}
    for entry in store.strays(room):
        if entry.name in names if room == ROOM else _is_hashed(entry.name.removesuffix(store.suffix), room):
            yield Problem(f"{entry} is an incomplete unit", (entry,))
        else:
            yield from _stray(entry)


def _is_hashed(name: str, room: str) -> bool:
    """Whether a file name has the form of units in ``text`` or ``more``."""
    try:
        original = original_name(name)
    except ValueError:
        return False
    return (
        original is None
        or re.fullmatch(r"(.+/)[0-9a-f]{16}" if room == MORE else r"[0-9a-f]{16}", original) is not None
    )


def _stray(entry: Location) -> list[Problem]:
    if not entry.name.startswith(TEMPORARY):
        return [Problem(f"{entry} does not belong to the cache; it is not removed")]
    if isinstance(entry, Path) and not abandoned(entry):
        return []
    return [Problem(f"{entry} is a leftover of a killed writer", (entry,))]


def _unit(store: Store, cache: Cache | None, key: str) -> list[Problem]:
    found = store.check(key)
    if not found and cache:
        found = [f"{key}: {problem}" for problem in problems_of(cache, key)]
    harmless = all(problem.endswith(FOREIGN) for problem in found)
    remove = () if cache is None or harmless else (store.place(key),)  # without the recipe, its origin is unknown
    return [Problem(message, remove) for message in found]
