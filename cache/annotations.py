"""Annotation sets: the samples of some splits of one dataset, independent of features."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import CacheError, UsageError
from ..objects import Location
from .schema import Sample, same_sample
from .table import COLUMNS, SampleTable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Split:
    """Facts about one split of a set."""

    sha256: str
    """Hash of its samples, independent of their order."""
    samples: int
    """Number of samples."""
    videos: int
    """Number of videos."""
    max_frames: int | None = None
    """The ``max_frames`` for which the annotations were checked."""
    on_bad_record: str = "raise"
    """Handling of faulty records: ``raise``, or ``skip`` to leave them out."""


@dataclass(frozen=True)
class AnnotationSet:
    """Some splits of one dataset, and all their samples."""

    name: str
    dataset: str
    splits: dict[str, Split]
    samples: SampleTable = field(repr=False)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By video id: the file of the set's own extraction (``bytes``, ``mtime_ns``; ``sha256`` once it is known). Only
    for videos with features of another file in the cache."""
    stored_in: Location | None = None
    """The cache that holds exactly this set; None if no cache does."""

    @classmethod
    def of(
        cls,
        name: str,
        dataset: str,
        samples: Sequence[Sample],
        splits: Sequence[str] = (),
        max_frames: int | None = None,
        on_bad_record: str = "raise",
    ) -> AnnotationSet:
        """A set in memory. ``splits``: names of splits that may be empty. Raises UsageError for an invalid set name."""
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name an annotation set", expected="at most 100 characters: letters, digits, _ . and -"
            )
        table = SampleTable.of(samples, f"annotation set {name}")
        found = {
            split: Split(*_facts(table, split), max_frames, on_bad_record)
            for split in dict.fromkeys([*splits, *table.splits])
        }
        return cls(name, dataset, found, table)

    @cached_property
    def sha256(self) -> str:
        """Hash of the dataset's name and all samples, independent of their order."""
        content = json.dumps([self.dataset, {split: facts.sha256 for split, facts in sorted(self.splits.items())}])
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()

    def means(self, video_id: str, source: Mapping[str, Any]) -> bool:
        """Whether a unit's ``source`` is the file of this set's video ``video_id``. True if either file is unknown."""
        file = self.files.get(video_id)
        return (
            not file
            or not source
            or any(
                all(file.get(fact) == source[fact] for fact in facts) for facts in (("sha256",), ("bytes", "mtime_ns"))
            )
        )

    def with_files(self, seen: Mapping[str, Mapping[str, Any] | None]) -> AnnotationSet:
        """This set with updated `files`.

        ``seen``: by video id the file found; None if it matches the cache's features.
        """
        files = {video_id: file for video_id, file in {**self.files, **seen}.items() if file}
        return self if files == self.files else replace(self, files=files, stored_in=None)

    def rows(self, split: str) -> list[int]:
        """Table rows of a split's samples."""
        return [row for row, name in enumerate(self.samples.splits) if name == split]

    def with_splits_of(self, other: AnnotationSet, where: object = "") -> AnnotationSet:
        """This set with its splits replaced by the other's of the same names. Raises CacheError for another dataset."""
        if self.dataset != other.dataset:
            raise CacheError(
                f"{where}: annotation set {self.name} is of another dataset",
                expected=self.dataset,
                found=other.dataset,
                effect="nothing was written",
                hint="--annotation-set NAME, to give these annotations another name",
            )
        splits = {**self.splits, **other.splits}
        kept = {s: (self if self._holds(s, splits[s]) else other) for s in splits}
        if all(holder is self for holder in kept.values()):
            return self.with_files(other.files)
        samples = [holder.samples[row] for split, holder in kept.items() for row in holder.rows(split)]
        facts = {split: holder.splits[split] for split, holder in kept.items()}
        table = SampleTable.of(samples, f"annotation set {self.name}")
        return AnnotationSet(self.name, self.dataset, facts, table, {**self.files, **other.files})

    def united_with(self, other: AnnotationSet, where: object) -> AnnotationSet:
        """The union of both sets' samples.

        Raises CacheError for another dataset, other reading options of a split, or different samples with one id.
        """
        if self.sha256 == other.sha256:
            return self.with_files(other.files)
        found = {(s.split, s.sample_id): s for s in self.samples} if self.dataset == other.dataset else {}
        faults = [] if self.dataset == other.dataset else [f"dataset {self.dataset} and {other.dataset}"]
        for split in self.splits.keys() & other.splits.keys():
            mine, theirs = (s.splits[split] for s in (self, other))
            if (mine.max_frames, mine.on_bad_record) != (theirs.max_frames, theirs.on_bad_record):
                faults.append(
                    f"{split} was read with --max-frames {mine.max_frames} --on-bad-record {mine.on_bad_record}, "
                    f"and with --max-frames {theirs.max_frames} --on-bad-record {theirs.on_bad_record}"
                )
        faults += [
            f"sample {sample.sample_id} of {sample.split} is different"
            for sample in other.samples
            if not same_sample(found.setdefault((sample.split, sample.sample_id), sample), sample)
        ]
        if faults:
            raise CacheError(
                f"{where}: annotation set {self.name} contradicts an existing set of this name",
                found="; ".join(faults[:3]) + (f"; and {len(faults) - 3:,} more" if len(faults) > 3 else ""),
                effect="nothing was written",
                hint="run stvg cache remove-annotations on one of the caches, then stvg extract again",
            )
        table = SampleTable.of(list(found.values()), f"annotation set {self.name}")
        rules = {**other.splits, **self.splits}
        splits = {s: Split(*_facts(table, s), rule.max_frames, rule.on_bad_record) for s, rule in rules.items()}
        return AnnotationSet(self.name, self.dataset, splits, table, {**self.files, **other.files})

    def _holds(self, split: str, wanted: Split) -> bool:
        return split in self.splits and self.splits[split].sha256 == wanted.sha256

    def to_json(self) -> dict[str, str]:
        """Name and hash, for the record of a run."""
        return {"name": self.name, "sha256": self.sha256}


def _facts(table: SampleTable, split: str) -> tuple[str, int, int]:
    rows = [row for row, name in enumerate(table.splits) if name == split]
    digests = sorted(hashlib.sha256(content).digest() for content in table.contents(rows, COLUMNS))
    videos = {table.video_ids[row] for row in rows}
    return hashlib.sha256(b"".join(digests)).hexdigest(), len(rows), len(videos)
