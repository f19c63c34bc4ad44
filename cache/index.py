"""A cache folder as a whole: its recipe, its samples, its units, and what could not be read.

    cache.json        recipe, fingerprint, store, versions, counts (see `header`)
    samples.parquet   one row per sentence (see `table`)
    videos/           one unit per video (see `store`)
    text/             token features, PART_ROWS distinct sentences to a unit
    skipped.jsonl     what could not be read, and why (see `skipped`)

Which videos are complete is read from the store alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CacheError
from ..objects import HEADER, Location
from .contents import Contents
from .header import SAMPLES, Header
from .making import make, other_rules, require_same_samples, require_same_table
from .sampling import IntArray
from .schema import Recipe, Sample
from .skipped import SkipList
from .stores.contract import Store
from .stores.kinds import open_store
from .table import SampleTable, checksum, sentences_sha256, to_parquet
from .video_unit import VideoUnit

if TYPE_CHECKING:
    from torch import Tensor

PART_ROWS = 4096
KEPT_TEXTS = 2048
READERS = 8
"""Records of units that are asked for at once."""


def video_key(video_id: str) -> str:
    return f"videos/{video_id}"


def text_key(part: int) -> str:
    return f"text/{part:05d}"


class Cache:
    """An opened cache. Safe to share between threads and to send to worker processes."""

    def __init__(self, path: Location, header: Header) -> None:
        self.path, self.header, self.recipe = path, header, header.recipe
        self.store: Store = open_store(path, header.store)
        self.text_store = self.store
        """Where the token features are; elsewhere only for `with_samples_of`."""
        self.samples = SampleTable(path / SAMPLES, header.samples_file)
        self.skip_list = SkipList(path)
        self._units: dict[str, VideoUnit] = {}
        self._text_offsets: dict[int, IntArray] = {}
        self._texts: dict[int, Tensor] = {}

    @classmethod
    def open(cls, path: Location) -> Cache:
        """Open what is there. Raises CacheError for a folder that is no cache, or one whose header or table is damaged."""
        return cls(path, read_header(path))

    @classmethod
    def create(
        cls,
        path: Location,
        recipe: Recipe,
        samples: Sequence[Sample],
        store: str,
        versions: dict[str, str],
        admitted_by: dict[str, Any] | None = None,
    ) -> Cache:
        """Make a cache of these samples, or open the one that is there. ``admitted_by``: the options that chose them.

        Raises CacheError when that has another recipe, store, or other samples.
        """
        if not (path / HEADER).exists():
            counts = {"samples": len(samples), "videos": len({s.video.video_id for s in samples})}
            table = to_parquet(samples)
            header = Header(recipe, store, counts, versions, checksum(table), admitted_by)
            if make(path, header, table):
                return cls(path, header)
        cache = cls.open(path)
        cache.require_made_with(recipe, admitted_by)
        cache.require_store(store)
        require_same_samples(cache.samples, samples, other_rules(cache.header.admitted_by, admitted_by), path)
        return cache

    @classmethod
    def begin(
        cls,
        path: Location,
        recipe: Recipe,
        table: bytes,
        store: str,
        counts: dict[str, int],
        versions: dict[str, str],
        admitted_by: dict[str, Any] | None = None,
    ) -> Cache:
        """A cache of exactly these samples (a file of `to_parquet`), without units.

        Opens the one that is there if it has the same recipe, store and samples, and raises CacheError if not.
        """
        header = Header(recipe, store, counts, versions, checksum(table), admitted_by)
        if not (path / HEADER).exists() and make(path, header, table):
            return cls(path, header)
        cache = cls.open(path)
        cache.recipe.require_equal(recipe, path)
        require_same_table(cache.header, header, path)
        cache.require_store(store)
        return cache

    def require_made_with(self, recipe: Recipe, admitted_by: dict[str, Any] | None) -> None:
        """Refuse another recipe; where that is of other annotations, with the options that chose the samples."""
        rules = other_rules(self.header.admitted_by, admitted_by)
        self.recipe.require_equal(recipe, self.path, **rules)

    def require_store(self, store: str) -> None:
        """Refuse to write in another store than the units that are there."""
        if self.header.store != store:
            raise CacheError(
                f"{self.path} is kept otherwise",
                expected=f"--store {self.header.store}",
                found=f"--store {store}",
                effect="nothing was read or written",
                hint="use the --store the cache was made with, or another --out folder",
            )

    def with_samples_of(self, other: Cache) -> Cache:
        """The videos of this cache under the samples and sentences of another, of the same recipe. Nothing is copied."""
        self.recipe.require_equal(other.recipe, self.path)
        both = copy(self)
        both.samples, both.text_store = other.samples, other.store
        both._text_offsets, both._texts = {}, {}
        return both

    def unit(self, video_id: str) -> VideoUnit:
        """The facts of a complete video; CacheError if it is not in the store or of another recipe."""
        if video_id not in self._units:
            attributes = self.store.attributes(video_key(video_id))
            if attributes["fingerprint"] != self.recipe.fingerprint:
                raise CacheError(
                    f"{self.path}: video {video_id} was written with another recipe",
                    expected=self.recipe.fingerprint,
                    found=attributes["fingerprint"],
                )
            self._units[video_id] = VideoUnit.of(attributes)
        return self._units[video_id]

    def text(self, row: int) -> Tensor:
        """Token features of one distinct sentence: (M, text width). Recent ones are kept; do not write to them."""
        found = self._texts.get(row)
        if found is None:
            found = self._read_text(row)
            while len(self._texts) >= KEPT_TEXTS:
                self._texts.pop(next(iter(tuple(self._texts))), None)  # a copy: other threads change it meanwhile
            self._texts[row] = found
        return found

    def _read_text(self, row: int) -> Tensor:
        from .stores.quantise import read_features  # torch loads where features are read; listing a cache does without

        part, local = divmod(row, PART_ROWS)
        if part not in self._text_offsets:
            self._text_offsets[part] = self._open_text(part)
        start, end = self._text_offsets[part][local : local + 2]
        return read_features(self.text_store, text_key(part), "hidden", slice(int(start), int(end)))

    def require_text(self, part: int) -> bool:
        """Whether a part of the text features is complete. CacheError when it holds other sentences or another recipe's."""
        if not self.text_store.contains(text_key(part)):
            return False
        self._open_text(part)
        return True

    def _open_text(self, part: int) -> IntArray:
        """Where each sentence's tokens start; CacheError when the unit holds other sentences or another recipe's."""
        attributes = self.text_store.attributes(text_key(part))
        for name, expected in self.text_attributes(part).items():
            if attributes.get(name) != expected:
                raise CacheError(
                    f"{self.path}: {text_key(part)} does not belong to this cache",
                    expected=f"{name} {expected}",
                    found=attributes.get(name),
                    hint="stvg cache verify --repair",
                )
        return np.asarray(attributes["offsets"], dtype=np.int64)

    def text_attributes(self, part: int) -> dict[str, str]:
        """What a part of the text features says of itself, offsets aside."""
        rows = range(part * PART_ROWS, min((part + 1) * PART_ROWS, self.samples.text_count))
        sentences = sentences_sha256(map(self.samples.sentence, rows))
        return {"sentences_sha256": sentences, "fingerprint": self.recipe.fingerprint}

    def complete(self) -> set[str]:
        """The videos whose features are in the cache."""
        return {key.removeprefix(video_key("")) for key in self.store.keys("videos")}

    def contents(self, split: str) -> Contents:
        """What of a split can be read now, for the record of a run and for comparing with one."""
        done, table = self.complete(), self.samples
        rows = [
            i for i, (s, v) in enumerate(zip(table.splits, table.video_ids, strict=True)) if s == split and v in done
        ]
        return Contents.of(table, split, rows, self.recipe.fingerprint, self.sources(rows))

    def sources(self, rows: Sequence[int]) -> dict[str, str]:
        """By video id, the beginning of the SHA-256 of the file that the features of some samples are of, where known."""
        videos = list(dict.fromkeys(self.samples.video_ids[row] for row in rows))
        with ThreadPoolExecutor(READERS, "sources") as pool:  # over a network, one by one is slow
            found = zip(videos, pool.map(self.unit, videos), strict=True)
            return {video: unit.source["sha256"][:16] for video, unit in found if unit.source}

    def skipped(self) -> dict[str, str]:
        """Videos that could not be read, with the reason, unless a later attempt succeeded."""
        reasons = self.skip_list.read()
        return {v: reason for v, reason in reasons.items() if not self.store.contains(video_key(v))}

    def skip(self, video_id: str, reason: str) -> None:
        """Note a video that could not be read."""
        self.skip_list.add(video_id, reason)


def read_header(path: Location) -> Header:
    """The header of the cache at ``path``. CacheError when there is none, or a byte of it is not as it was written."""
    try:
        stored = (path / HEADER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CacheError(f"{path} is not a cache: it has no {HEADER}", hint="make one with stvg extract") from None
    except OSError as error:
        raise CacheError(f"{path / HEADER} cannot be read", found=error) from None
    return Header.from_bytes(stored, path / HEADER)
