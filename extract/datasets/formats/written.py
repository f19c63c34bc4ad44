"""Writes imported samples as files in the `json` format. Files that were changed by hand are never replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....atomic import make_folder, write_atomic
from ....cache.schema import Video
from ....errors import UsageError
from ....wording import counted
from .presence import Run
from .sentences import SentenceEntry

RECORD = ".imported.json"
"""SHA-256 of every file that was written. Hidden, or it would be taken for a split."""


@dataclass
class SplitFiles:
    """Samples, collected by split before they are written."""

    split: str
    """Of sentences that name none."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    videos: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    ids: set[tuple[str, str]] = field(default_factory=set)

    def add(self, entry: SentenceEntry, video: Video, target: str, run: Run) -> None:
        """Raises ValueError for an id that is taken."""
        split = entry.split or self.split
        sample_id = entry.sample_id or self._free(split, f"{video.video_id}/{target}")
        if (split, sample_id) in self.ids:
            raise ValueError("occurs twice")
        self.ids.add((split, sample_id))
        sample = {
            "id": sample_id,
            "video": video.video_id,
            "sentence": entry.sentence,
            **({"type": entry.qtype} if entry.qtype else {}),
            **({"segment": list(entry.segment)} if entry.segment else {}),
            "moment": list(entry.moment or run.span),
            "target": target,
            # All of the run, so that samples of one target agree on its boxes to the last digit.
            "boxes": dict(zip(map(str, run.frames.tolist()), run.boxes.tolist(), strict=True)),
            **({"interpolate": True} if run.is_sparse else {}),
        }
        self.samples.setdefault(split, []).append(sample)
        self.videos.setdefault(split, {})[video.video_id] = video_record(video)

    def _free(self, split: str, name: str) -> str:
        found, number = name, 1
        while (split, found) in self.ids:
            number += 1
            found = f"{name}-{number}"
        return found

    def files(self) -> dict[str, str]:
        """The content of the file of each split."""
        return {split: as_json(self.videos[split], listed) for split, listed in self.samples.items()}

    def write(self, out: Path, files: Mapping[Path, str]) -> list[str]:
        """Write them; returns what to say."""
        make_folder(out)
        record = _record(out)
        said = []
        for file, content in files.items():
            write_atomic(file, content)
            record[file.name] = hashlib.sha256(content.encode()).hexdigest()
            samples, videos = self.samples[file.stem], self.videos[file.stem]
            said.append(f"wrote {file}: {counted(len(samples), 'sentence')} about {counted(len(videos), 'video')}")
        write_atomic(out / RECORD, json.dumps(record, indent=1))
        return said


def video_record(video: Video) -> dict[str, Any]:
    fps = int(video.fps) if video.fps == int(video.fps) else video.fps
    size = {"width": video.width, "height": video.height}
    return {"file": video.path, **size, "fps": fps, "frame_count": video.frame_count}


def as_json(videos: Mapping[str, Mapping[str, Any]], samples: list[dict[str, Any]]) -> str:
    """A file in the `json` format with a line for every video and every sample."""
    told = ",\n".join(f"  {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}" for k, v in videos.items())  # fmt: skip  # noqa: E501
    listed = ",\n".join(f"  {json.dumps(sample, ensure_ascii=False)}" for sample in samples)
    return f'{{\n "videos": {{\n{told}\n }},\n "samples": [\n{listed}\n ]\n}}\n'


def require_ours(out: Path, files: Mapping[Path, str]) -> None:
    """Raises UsageError for a file that is there, and is not as an import wrote it."""
    record = _record(out)
    for file, content in files.items():
        if not file.exists():
            continue
        there = hashlib.sha256(file.read_bytes()).hexdigest()
        if there not in (record.get(file.name), hashlib.sha256(content.encode()).hexdigest()):
            raise UsageError(
                f"{file} was not written by an import, or was changed since",
                effect="nothing was written; the file is left as it is",
                hint="choose another --out, or move the file away",
            )


def _record(out: Path) -> dict[str, str]:
    try:
        found = json.loads((out / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
