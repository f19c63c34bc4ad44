"""A cache folder as a whole: its recipe, its samples, its units, and what could not be read.

    cache.json        recipe, fingerprint, store, versions, counts
    samples.parquet   one row per sentence
    videos/           one unit per video (see `store`)
    text/             token features, PART_ROWS distinct sentences to a unit
    skipped.jsonl     what could not be read, and why

Which videos are complete is read from the store alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atomic import TEMPORARY, write_once
from .errors import CacheError
from .sampling import IntArray
from .schema import Recipe, Sample, View
from .store import Store, open_store
from .table import SampleTable, write_samples

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

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.recipe = Recipe.from_json(header["recipe"])
        self.store: Store = open_store(path, header["store"])
        self.samples = SampleTable(path / "samples.parquet")
        self._units: dict[str, VideoUnit] = {}
        self._text_offsets: dict[int, IntArray] = {}
        self._texts: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(cls, path: Path) -> Cache:
        """Open what is there. Raises CacheError for a folder that is no cache, or one whose header is damaged."""
        try:
            header = json.loads((path / "cache.json").read_text(encoding="utf-8"))
            if Recipe.from_json(header["recipe"]).fingerprint != header["fingerprint"] or "store" not in header:
                raise ValueError("recipe and fingerprint disagree")
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(
                f"{path} is not a cache: it has no cache.json", hint="make one with stvg extract"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"{path / 'cache.json'} is damaged", found=error, hint="restore the file") from None
        return cls(path, header)

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, samples: Sequence[Sample], store: str, versions: dict[str, str]
    ) -> Cache:
        """Make the folder, or open it if it was made with the same recipe. cache.json is written last."""
        if (path / "cache.json").exists():
            cache = cls.open(path)
            cache.recipe.require_equal(recipe, path)
            return cache
        # What others write aside at this moment is no reason: several extractors may begin at once.
        names = [p.name for p in path.iterdir() if not p.name.startswith(TEMPORARY)] if path.exists() else []
        if names and not {"videos", "samples.parquet", "cache.json"} & set(names):
            raise CacheError(f"{path} is not empty and not a cache", hint="choose another --out folder")
        path.mkdir(parents=True, exist_ok=True)
        write_samples(path / "samples.parquet", samples)
        header = {
            "format": "stvg feature cache",
            "fingerprint": recipe.fingerprint,
            "recipe": recipe.to_json(),
            "store": store,
            "counts": {"samples": len(samples), "videos": len({s.video.video_id for s in samples})},
            "versions": versions,
        }
        if not write_once(path / "cache.json", (json.dumps(header, indent=2) + "\n").encode()):
            cache = cls.open(path)  # somebody else was first
            cache.recipe.require_equal(recipe, path)
            return cache
        return cls(path, header)

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

    def text(self, row: int) -> NDArray[Any]:
        """Token features of one distinct sentence: (M, text width). Recent ones are kept; do not write to them."""
        found = self._texts.get(row)
        if found is None:
            found = self._read_text(row)
            while len(self._texts) >= KEPT_TEXTS:
                self._texts.pop(next(iter(self._texts)), None)
            self._texts[row] = found
        return found

    def _read_text(self, row: int) -> NDArray[Any]:
        part, local = divmod(row, PART_ROWS)
        if part not in self._text_offsets:
            self._text_offsets[part] = np.asarray(self.store.attributes(text_key(part))["offsets"], dtype=np.int64)
        start, end = self._text_offsets[part][local : local + 2]
        return self.store.read(text_key(part), "hidden", slice(int(start), int(end)))

    def skipped(self) -> dict[str, str]:
        """Videos that could not be read, with the reason, unless a later attempt succeeded."""
        path = self.path / "skipped.jsonl"
        if not path.exists():
            return {}
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        reasons = {line["video_id"]: line["reason"] for line in lines}
        return {v: reason for v, reason in reasons.items() if not self.store.contains(video_key(v))}

    def skip(self, video_id: str, reason: str) -> None:
        """Note a video that could not be read: one whole line, appended in one step."""
        line = (json.dumps({"video_id": video_id, "reason": reason}) + "\n").encode()
        descriptor = os.open(self.path / "skipped.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
