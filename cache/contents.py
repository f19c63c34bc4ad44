"""The readable contents of a split, for the record of a run: its complete videos and their samples.

Caches with equal digests give a run the same samples in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from awscrt.checksums import crc32c

from ..errors import CacheError
from ..wording import counted
from .table import SampleTable

COLUMNS = (
    "sample_id",
    "integer_id",
    "sentence",
    "qtype",
    "target_id",
    "segment_start",
    "segment_end",
    "moment_start",
    "moment_end",
    "width",
    "height",
    "fps",
)
"""Columns that training reads, in addition to the boxes."""
NAMED = 5
"""Videos that a change lists by name; it counts the rest."""


@dataclass(frozen=True)
class Contents:
    """The complete videos of a split and their samples."""

    split: str
    fingerprint: str
    """Fingerprint of the features' recipe."""
    videos: dict[str, tuple[int, str]]
    """Video id → (number of samples, checksum of the columns and boxes that training reads), in table order."""
    order: str
    """Checksum of the order of the samples."""
    sources: dict[str, str] = field(default_factory=dict)
    """Video id → first 16 hex digits of the SHA-256 of the file of its features, if known."""

    @classmethod
    def of(
        cls,
        table: SampleTable,
        split: str,
        rows: Sequence[int],
        fingerprint: str,
        sources: Mapping[str, str] | None = None,
    ) -> Contents:
        """Contents of the rows of a table that a run can read, ascending. ``sources``: see the attribute."""
        sums: dict[str, tuple[int, int]] = {}
        order = hashlib.sha256()
        for row, content in zip(rows, table.contents(rows, COLUMNS), strict=True):
            video_id = table.video_ids[row]
            count, total = sums.get(video_id, (0, 0))
            sums[video_id] = count + 1, crc32c(content, total)
            order.update(crc32c(content).to_bytes(4, "little"))
        videos = {video_id: (count, f"{total:08x}") for video_id, (count, total) in sums.items()}
        return cls(split, fingerprint, videos, order.hexdigest()[:16], dict(sources or {}))

    @property
    def samples(self) -> int:
        return sum(count for count, _ in self.videos.values())

    @property
    def digest(self) -> str:
        """Hash of all fields, as 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        videos = {video_id: list(facts) for video_id, facts in self.videos.items()}
        return {
            "split": self.split,
            "fingerprint": self.fingerprint,
            "videos": videos,
            "order": self.order,
            "sources": self.sources,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Contents:
        """Inverse of `to_json`. Raises CacheError for anything else."""
        try:
            videos = {str(video_id): (int(count), str(total)) for video_id, (count, total) in stored["videos"].items()}
            return cls(
                str(stored["split"]),
                str(stored["fingerprint"]),
                videos,
                str(stored["order"]),
                dict(stored.get("sources", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CacheError("the recorded contents of a cache cannot be read", found=repr(error)) from None

    def changes(self, now: Contents) -> list[str]:
        """The differences between this record and ``now``, one line each, with counts and names. Empty if equal."""
        found = []
        if (self.split, self.fingerprint) != (now.split, now.fingerprint):
            found.append(f"split {self.split}, recipe {self.fingerprint}; now {now.split}, {now.fingerprint}")
        came, went = ([v for v in a.videos if v not in b.videos] for a, b in ((now, self), (self, now)))
        other = [v for v, facts in self.videos.items() if v in now.videos and now.videos[v] != facts]
        replaced = [v for v, file in self.sources.items() if now.sources.get(v, file) != file]
        found += [f"{counted(len(came), 'video')} added: {_some(came)}"] if came else []
        found += [f"{counted(len(went), 'video')} removed: {_some(went)}"] if went else []
        found += [f"{counted(len(other), 'video')} with other samples: {_some(other)}"] if other else []
        found += [f"{counted(len(replaced), 'video')} of another file: {_some(replaced)}"] if replaced else []
        if self.samples != now.samples:
            found.append(f"{counted(self.samples, 'sample')} then, {now.samples:,} now")
        if not found and self.order != now.order:
            return ["the samples are the same, in another order"]
        return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
