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
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from .atomic import TEMPORARY, make_folder, write_atomic, write_once
from .contents import Contents
from .errors import CacheError
from .header import HEADER, SAMPLES, Header
from .objects import Location
from .sampling import IntArray
from .schema import Recipe, Sample, View
from .skipped import SkipList
from .store import Store, backends_of, open_store
from .table import SampleTable, sentences_sha256, to_parquet

if TYPE_CHECKING:
    from torch import Tensor

PART_ROWS = 4096
KEPT_TEXTS = 2048


def video_key(video_id: str) -> str:
    return f"videos/{video_id}"


def array_name(level: str, view: int) -> str:
    """What the features of one level (``c3``, ``c4``, ``c5``, ``roi``) seen through one stored view are called."""
    return level if view == 0 else f"view{view}_{level}"


def text_key(part: int) -> str:
    return f"text/{part:05d}"


@dataclass(frozen=True)
class VideoUnit:
    """What one video's unit says of itself."""

    frames: IntArray
    """(F,) ascending source frames: the rows of ``c5`` (and ``c3``, ``c4``) of every view."""
    views: list[View]
    """The first is the evaluation geometry."""
    roi_rows: dict[str, tuple[IntArray, IntArray]]
    """Per target: ascending source frames and the rows of ``roi`` that hold them."""

    def rows(self, frames: IntArray, where: object) -> IntArray:
        """Rows of the maps at source frames; CacheError when one is not stored."""
        return _find(self.frames, np.arange(len(self.frames)), frames, where)

    def rows_of_target(self, target_id: str, frames: IntArray, where: object) -> IntArray:
        """Rows of ``roi`` for one target at source frames; CacheError when one is not stored."""
        known, rows = self.roi_rows.get(target_id, (np.empty(0, np.int64), np.empty(0, np.int64)))
        return _find(known, rows, frames, where)


def _find(known: IntArray, rows: IntArray, wanted: IntArray, where: object) -> IntArray:
    at = np.searchsorted(known, wanted)
    stored = (
        (at < len(known)) & (known[np.minimum(at, len(known) - 1)] == wanted)
        if len(known)
        else np.zeros(len(wanted), bool)
    )
    if not stored.all():
        raise CacheError(
            f"{where} holds no features of source frames {wanted[~stored][:5].tolist()}",
            expected="frames of the grid this cache was extracted on",
            hint="use the fps the cache was made with, or extract again",
        )
    return rows[at]


class Cache:
    """An opened cache. Safe to share between threads and to send to worker processes."""

    def __init__(self, path: Location, header: Header) -> None:
        self.path, self.header, self.recipe = path, header, header.recipe
        self.store: Store = open_store(path, header.store, header.compression)
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
        compression: str | None = None,
    ) -> Cache:
        """Make the folder, or open it if it was made with the same recipe and packing. cache.json is written last."""
        if (path / HEADER).exists():
            cache = cls.open(path)
            cache.recipe.require_equal(recipe, path)
            cache.require_packing(compression)
            return cache
        counts = {"samples": len(samples), "videos": len({s.video.video_id for s in samples})}
        return cls.begin(path, recipe, to_parquet(samples), store, counts, versions, compression)

    @classmethod
    def begin(
        cls,
        path: Location,
        recipe: Recipe,
        table: bytes,
        store: str,
        counts: dict[str, int],
        versions: dict[str, str],
        compression: str | None = None,
    ) -> Cache:
        """A cache of exactly these samples (a file of `to_parquet`), without units; cache.json is written last.

        Opens the one that is there if it has the same recipe, store and samples, and raises CacheError if not.
        """
        header = Header(recipe, store, counts, versions, (len(table), google_crc32c.value(table)), compression)
        if (path / HEADER).exists():
            cache = cls.open(path)
            cache.recipe.require_equal(recipe, path)
            cache.require_packing(compression)
            _require_same_samples(cache.header, header, path)
            return cache
        _require_room(path, recipe, store)
        open_store(path, store, compression)  # refuses what this place cannot hold, or not packed so
        make_folder(path)
        write_atomic(path / SAMPLES, table)
        if not write_once(path / HEADER, header.to_bytes()):  # another extractor was first
            return cls.begin(path, recipe, table, store, counts, versions, compression)
        return cls(path, header)

    def require_packing(self, compression: str | None) -> None:
        """Refuse to write with another compression than the units that are there."""
        if compression != self.store.compression:
            raise CacheError(
                f"{self.path} is packed otherwise",
                expected=f"compression {self.store.compression or 'none'}, as it was made with",
                found=f"{compression or 'none'} asked for",
                effect="nothing was read or written",
                hint="use the --compression the cache was made with, or another --out folder",
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
            roi_frames = np.asarray(attributes["roi_frames"], dtype=np.int64)
            targets = np.asarray(attributes["roi_targets"], dtype=np.int64)
            roi = {
                name: (roi_frames[targets == i], np.flatnonzero(targets == i))
                for i, name in enumerate(attributes["targets"])
            }
            frames = np.asarray(attributes["frames"], dtype=np.int64)
            self._units[video_id] = VideoUnit(frames, [View.from_json(v) for v in attributes["views"]], roi)
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
        from .quantise import read_features  # torch loads where features are read; listing a cache does without

        part, local = divmod(row, PART_ROWS)
        if part not in self._text_offsets:
            self._text_offsets[part] = self._open_text(part)
        start, end = self._text_offsets[part][local : local + 2]
        return read_features(self.text_store, text_key(part), "hidden", slice(int(start), int(end)))

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
        return Contents.of(table, split, rows, self.recipe.fingerprint)

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


def _require_same_samples(found: Header, wanted: Header, path: Location) -> None:
    if (found.store, found.samples_file) != (wanted.store, wanted.samples_file):
        says = "store {0}, samples of {1[0]:,} bytes, crc32c {1[1]:08x}"
        raise CacheError(
            f"{path} holds another cache",
            expected=says.format(wanted.store, wanted.samples_file),
            found=says.format(found.store, found.samples_file),
            effect="nothing was written",
            hint="name another folder",
        )


def _require_room(path: Location, recipe: Recipe, store: str) -> None:
    """A new cache needs an empty folder, or units whose header was lost: these must be of this recipe and store."""
    found_names = (entry.name for entry in path.iterdir()) if path.is_dir() else ()
    # What others write aside at this moment is no reason: several extractors may begin at once.
    present = {name for name in found_names if not name.startswith(TEMPORARY)}
    if present and not present & {"videos", SAMPLES, HEADER}:
        raise CacheError(f"{path} is not empty and not a cache", hint="choose another --out folder")
    for kind in backends_of(path) if "videos" in present else ():
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
