"""skipped.jsonl: the videos that could not be read, with reasons. Every line has a checksum.

Several extractors may append at the same time, because each line is one write. Object storage cannot append, so there
every line is a separate object below ``skipped/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from awscrt.checksums import crc32c

from ..atomic import unit_name, write_atomic
from ..errors import CacheError
from ..objects import Location, ObjectPath

NAME, FOLDER = "skipped.jsonl", "skipped"
NOT_THERE = "is not in the folder of videos"
"""Text in the reason of a video without a file, after the file's name."""


class SkipList:
    """The list of skipped videos of the cache at ``path``."""

    def __init__(self, path: Location) -> None:
        self._cache = path
        self.path = path / (FOLDER if isinstance(path, ObjectPath) else NAME)

    def add(self, video_id: str, reason: str) -> None:
        line = _line(video_id, reason)
        if isinstance(self._cache, ObjectPath):
            (self._cache / FOLDER / (unit_name(video_id) + ".json")).write_bytes(line)
            return
        descriptor = os.open(self._cache / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, str]:
        """The last reason for every listed video. Raises CacheError for a damaged line."""
        found, damaged = self.survey()
        if damaged:
            raise CacheError(f"{self.path}, {damaged[0]} is damaged", hint="stvg cache verify --repair")
        return found

    def survey(self) -> tuple[dict[str, str], list[str]]:
        """The videos of the intact lines with their reasons, and the names of the damaged lines."""
        found: dict[str, str] = {}
        damaged = []
        for name, line in self._lines():
            try:
                content = json.loads(line)
                video_id, reason = content["video_id"], content["reason"]
                intact = line == _line(video_id, reason)
            except (ValueError, KeyError, TypeError):
                intact = False
            if intact:
                found[video_id] = reason
            else:
                damaged.append(name)
        return found, damaged

    def rewrite(self, entries: dict[str, str]) -> None:
        """Replace the list."""
        if isinstance(self.path, ObjectPath):
            self.path.unlink()
            for video_id, reason in entries.items():
                self.add(video_id, reason)
        else:
            write_atomic(self.path, b"".join(_line(*entry) for entry in entries.items()))

    def _lines(self) -> Iterable[tuple[str, bytes]]:
        if isinstance(self.path, ObjectPath):
            return [(path.name, path.read_bytes()) for path, _ in self.path.below()]
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [(f"line {i}", line) for i, line in enumerate(lines, 1)]


def was_absent(reason: str) -> bool:
    """Whether a video was skipped because its file did not exist. It may exist now."""
    first = reason.partition("\n")[0]
    return first.endswith((NOT_THERE, " is not there"))


def _line(video_id: str, reason: str) -> bytes:
    content = {"video_id": video_id, "reason": reason}
    return (json.dumps({**content, "crc32c": crc32c(json.dumps(content).encode())}) + "\n").encode()
