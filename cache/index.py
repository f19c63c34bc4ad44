"""A cache: recipe, feature units, annotation sets, and the list of skipped videos.

    cache.json        recipe, fingerprint, store, versions (see `header`)
    annotations/      the samples, one table per annotation set (see `annotations`)
    videos/           the first unit of every video (see `video_unit`)
    more/             units that were added to a video later
    text/             token features of sentences of all annotation sets (see `texts`)
    skipped.jsonl     videos that could not be read, with reasons (see `skipped`)

The units in the store alone determine which videos are complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import CacheError
from ..objects import HEADER, Location
from .annotations import AnnotationSet
from .arrays import array_name
from .contents import Contents
from .covering import covered
from .header import Header
from .making import make
from .schema import Recipe
from .set_files import choose_set, read_set, set_names, update_set
from .skipped import SkipList
from .stores.contract import Store
from .stores.kinds import open_store
from .table import SampleTable
from .texts import Texts
from .video_unit import MORE, ROOM, VideoUnit, video_key, video_of

if TYPE_CHECKING:
    from torch import Tensor

READERS = 8
"""Threads that read the records of units."""
UNITS_AT_ONCE = 32
"""Units per task of such a thread."""


class Cache:
    """An open cache with one selected annotation set. Can be shared between threads and pickled to worker processes.

    ``annotation_set``: name of the set; None selects the only one. The set is read on first use.
    """

    def __init__(self, path: Location, header: Header, annotation_set: str | None = None) -> None:
        self.path, self.header, self.recipe = path, header, header.recipe
        self.fingerprint = header.recipe.fingerprint
        self.annotation_set = annotation_set
        self.store: Store = open_store(path, header.store)
        self.texts = Texts(self.store, self.recipe.fingerprint)
        """The token features. They are in another cache after `with_samples_of`."""
        self.skip_list = SkipList(path)
        self._units: dict[str, VideoUnit] = {}
        self._more: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, path: Location, annotation_set: str | None = None) -> Cache:
        """Open a cache. Raises CacheError if the folder is not a cache or its header is damaged."""
        return cls(path, read_header(path), annotation_set)

    @classmethod
    def create(cls, path: Location, recipe: Recipe, store: str, versions: dict[str, str]) -> Cache:
        """Create a cache without annotations, or open an existing one.

        Raises CacheError if the existing cache has another recipe or store.
        """
        header = Header(recipe, store, versions)
        if not (path / HEADER).exists() and make(path, header):
            return cls(path, header)
        cache = cls.open(path)
        cache.recipe.require_equal(recipe, path)
        cache.require_store(store)
        return cache

    def require_store(self, store: str) -> None:
        """Raise CacheError unless ``store`` is the store of this cache."""
        if self.header.store != store:
            raise CacheError(
                f"{self.path} has another store",
                expected=f"--store {self.header.store}",
                found=f"--store {store}",
                effect="nothing was read or written",
                hint="use the --store the cache was made with, or another --out folder",
            )

    def __repr__(self) -> str:
        return "\n".join(description(self))

    @cached_property
    def annotations(self) -> AnnotationSet:
        """The selected annotation set.

        Raises CacheError if it does not exist, or if no name was given and several exist.
        """
        return choose_set(self.path, self.annotation_set)

    @property
    def samples(self) -> SampleTable:
        """All samples of the annotation set."""
        return self.annotations.samples

    def annotate(self, new: AnnotationSet) -> Cache:
        """Write an annotation set into the cache, see `update_set`. Returns this cache with the set selected."""
        return self.seen_through(update_set(self.path, new))

    def seen_through(self, annotations: AnnotationSet) -> Cache:
        """This cache with the given annotation set selected. The set need not be stored in the cache."""
        other = copy(self)
        vars(other)["annotations"] = annotations
        other.annotation_set = annotations.name
        return other

    def with_samples_of(self, other: Cache) -> Cache:
        """This cache's videos with the samples and sentences of another cache of the same recipe. Nothing is copied."""
        self.recipe.require_equal(other.recipe, self.path)
        both = self.seen_through(other.annotations)
        both.texts = other.texts
        return both

    def unit(self, video_id: str) -> VideoUnit:
        """All features of a video. Raises CacheError if there are none, or if they have another recipe."""
        if video_id not in self._units:
            keys = self.unit_keys(video_id)
            if not keys:
                raise CacheError(f"{self.path} has no features of video {video_id}", hint="repeat stvg extract")
            self._units[video_id] = VideoUnit.of(self.store, keys, self.fingerprint)
        return self._units[video_id]

    def features(
        self, video_id: str, level: str | None = None, frames: Sequence[int] | None = None, view: int = 0
    ) -> Tensor:
        """Maps of a level at source frames: (n, rows, columns, channels), as stored; uint8 is decoded to float16.

        ``level``: a name from the recipe.  [the last] ``frames``: (n,) source frames.  [all stored ones, ascending]
        ``view``: number of the stored view; 0 is the evaluation view.
        Raises CacheError if the cache has no maps of the level or of a frame, or no such view.
        """
        unit, name = self.unit(video_id), level or self.recipe.visual.levels[-1].name
        if self.recipe.kept.get(name) != "maps":
            kept = [level for level, how in self.recipe.kept.items() if how == "maps"]
            raise CacheError(f"{self.path} keeps no maps of level {name!r}", expected=" or ".join(kept))
        if not 0 <= view < len(unit.views):
            raise CacheError(
                f"{self.path} has no view {view} of video {video_id}", expected=f"0 to {len(unit.views) - 1}"
            )
        wanted = unit.frames if frames is None else np.asarray(frames, dtype=np.int64).reshape(-1)
        return unit.read(array_name(name, view), unit.places(wanted))

    def unit_keys(self, video_id: str) -> list[str]:
        """Keys of a video's units: the first unit, then those that were added later."""
        if self._more is None:
            more: dict[str, list[str]] = {}
            for key in self.store.keys(MORE):
                more.setdefault(video_of(key), []).append(key)
            self._more = more
        first = video_key(video_id)
        return [first] * self.store.contains(first) + self._more.get(video_id, [])

    def look_again(self) -> None:
        """Forget cached facts of units, so that units written in the meantime are found."""
        self._more = None
        self._units.clear()

    @property
    def videos(self) -> list[str]:
        """Ids of all videos with stored features, sorted."""
        return sorted(self.complete())

    def complete(self) -> set[str]:
        """Ids of all videos with stored features."""
        return {video_of(key) for room in (ROOM, MORE) for key in self.store.keys(room)}

    def covered(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """(n,) bool for table rows: whether all frames and regions of the sample are stored, for any ``max_frames``.

        Features of another file than the annotation set describes do not count.
        """
        there = self.complete()
        videos = [v for v in dict.fromkeys(self.samples.video_ids[row] for row in rows) if v in there]
        self.read_units(videos)
        return covered(self.samples, rows, {v: self.unit(v) for v in videos if self.means(v)}, self.recipe)

    def lacking_sentences(self) -> list[str]:
        """Distinct sentences of the annotation set with missing features. Empty for a cache that keeps no features."""
        return [] if self.recipe.bare else self.texts.missing(self.samples.sentences())

    def mistaken(self, rows: Sequence[int]) -> list[str]:
        """Videos of these table rows with features of another file or size than the annotation set describes."""
        there = self.complete()
        videos = dict.fromkeys(self.samples.video_ids[row] for row in rows)
        return [v for v in videos if v in there and not self.means(v)]

    def means(self, video_id: str) -> bool:
        """Whether a video's features are of the file and size that the annotation set describes."""
        unit, table = self.unit(video_id), self.samples
        row, view = table.rows_of_videos[video_id][0], unit.views[0]
        size = (table.columns["width"][row], table.columns["height"][row])
        return size == (view.source_width, view.source_height) and self.annotations.means(video_id, unit.source)

    def contents(self, split: str) -> Contents:
        """The contents of a split that can be read now, for the record of a run or a comparison with it."""
        rows = self.annotations.rows(split)
        rows = [row for row, there in zip(rows, self.covered(rows), strict=True) if there]
        return Contents.of(self.samples, split, rows, self.recipe.fingerprint, self.sources(rows))

    def sources(self, rows: Sequence[int]) -> dict[str, str]:
        """By video id: first 16 hex digits of the SHA-256 of the file of its features, if known."""
        there = self.complete()
        videos = [v for v in dict.fromkeys(self.samples.video_ids[row] for row in rows) if v in there]
        self.read_units(videos)
        return {video: unit.source["sha256"][:16] for video in videos if (unit := self.unit(video)).source}

    def read_units(self, videos: Iterable[str]) -> None:
        """Read the facts of several videos concurrently, because of network latency."""
        wanted = list(videos)
        some = [wanted[at : at + UNITS_AT_ONCE] for at in range(0, len(wanted), UNITS_AT_ONCE)]
        with ThreadPoolExecutor(READERS, "units") as pool:
            for _ in pool.map(lambda videos: [self.unit(video) for video in videos], some):
                pass

    def skipped(self) -> dict[str, str]:
        """Videos that could not be read, with reasons, except those that were extracted later."""
        reasons = self.skip_list.read()
        return {v: reason for v, reason in reasons.items() if not self.unit_keys(v)}

    def skip(self, video_id: str, reason: str) -> None:
        """Add a video that could not be read to the skip list."""
        self.skip_list.add(video_id, reason)


def description(cache: Cache) -> list[str]:
    """A short description of a cache: encoders, levels, number of videos, annotation sets. One entry per line."""
    recipe, names = cache.recipe, set_names(cache.path)
    levels = ", ".join(f"{level.name} ({recipe.kept[level.name]})" for level in recipe.levels) or "no features are kept"
    lines = [
        f"Cache {cache.path}: {len(cache.complete()):,} videos at {recipe.fps:g} frames per second, {recipe.dtype}",
        f"  pictures   {recipe.visual.name}: {levels}",
        f"  sentences  {recipe.text.name}, {recipe.text.width} features per token",
    ]
    for name in names:
        splits = read_set(cache.path, name).splits
        counts = ", ".join(f"{split} {facts.samples:,}" for split, facts in splits.items())
        lines.append(f"  samples    {name}: {counts}")
    return lines


def read_header(path: Location) -> Header:
    """The header of the cache at ``path``. Raises CacheError if it is missing or damaged."""
    try:
        stored = (path / HEADER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CacheError(f"{path} is not a cache: it has no {HEADER}", hint="make one with stvg extract") from None
    except OSError as error:
        raise CacheError(f"{path / HEADER} cannot be read", found=error) from None
    return Header.from_bytes(stored, path / HEADER)
