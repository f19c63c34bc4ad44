"""`stvg dataset export`: annotations of any dataset as files of other tools, and the table of their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ....cache.sampling import FloatArray
from ....cache.schema import Sample, Video, has_boxes
from ....errors import UsageError
from ....wording import counted
from ..validate import some
from .presence import DECIMALS
from .sentences import BLANK, OPTIONAL, REQUIRED
from .table import FORMATS
from .text_table import write_table

COLUMNS = (*REQUIRED, *(name for name in OPTIONAL if name != "label"))


@dataclass
class ExportedVideo:
    """A video and its objects; each has a box in some frames."""

    video: Video
    targets: dict[str, dict[int, FloatArray]] = field(default_factory=dict)
    """By target: boxes (4,) xyxy in pixels, by frame."""

    def number(self, target: str) -> int:
        """The number of a target in formats that number objects: from 1, in the order of the samples."""
        return list(self.targets).index(target) + 1


def export_dataset(samples: Sequence[Sample], kind: str, out: Path) -> list[str]:
    """Write ``out``/sentences.csv, and the boxes in the format ``kind``, a row of `FORMATS`; returns what to say.

    `stvg dataset import` makes the same samples of it, but for the names of targets, which become numbers, and for boxes
    beyond a thousandth of a pixel. Raises UsageError where ``out`` holds an export already, and where there is nothing.
    """
    if not samples:
        raise UsageError("there is no sample to export", hint="stvg dataset check names every fault")
    if (out / BLANK).exists():
        raise UsageError(f"{out / BLANK} is there already", effect="nothing was written", hint="choose another --out")
    videos: dict[str, ExportedVideo] = {}
    for sample in samples:
        video = videos.setdefault(sample.video.video_id, ExportedVideo(sample.video))
        boxes = video.targets.setdefault(sample.target_id, {})
        for row in np.flatnonzero(has_boxes(sample.boxes)).tolist():
            if sample.moment[0] + row < sample.video.frame_count:
                boxes[sample.moment[0] + row] = sample.boxes[row].round(DECIMALS)
    written = FORMATS[kind].write(out, list(videos.values()))
    write_table(out / BLANK, COLUMNS, [_row(sample, videos[sample.video.video_id]) for sample in samples])
    targets = sum(len(video.targets) for video in videos.values())
    return [
        *_notes(samples),
        f"wrote {written}: {counted(len(videos), 'video')}, {counted(targets, 'track')}",
        f"wrote {out / BLANK}: {counted(len(samples), 'sentence')}",
    ]


def _row(sample: Sample, video: ExportedVideo) -> list[object]:
    count = sample.video.frame_count
    whole = sample.segment == (0, count)
    cells: dict[str, object] = {
        "video": sample.video.path,
        "track": video.number(sample.target_id),
        "sentence": sample.sentence,
        "start": sample.moment[0],
        "end": min(sample.moment[1], count),
        "split": sample.split,
        "type": sample.qtype,
        "id": str(sample.sample_id),
        "clip_start": "" if whole else sample.segment[0],
        "clip_end": "" if whole else min(sample.segment[1], count),
    }
    return [cells[name] for name in COLUMNS]


def _notes(samples: Sequence[Sample]) -> list[str]:
    """What the exported files cannot express."""
    late = [s.sample_id for s in samples if s.moment[1] > s.video.frame_count]
    gaps = {}
    for sample in samples:
        there = np.flatnonzero(has_boxes(sample.boxes[: sample.video.frame_count - sample.moment[0]]))
        steps = np.diff(there, prepend=-1, append=min(len(sample.boxes), sample.video.frame_count - sample.moment[0]))
        if (longest := int(steps.max()) - 1) > 0:
            gaps[sample.sample_id] = longest
    notes = []
    if late:
        notes.append(f"note: {counted(len(late), 'moment')} cut at the end of the video: {some(late, 4)}")
    if gaps:
        notes.append(
            f"note: {counted(len(gaps), 'moment')} with frames without a box, at most {max(gaps.values())} in a row: "
            f"{some(list(gaps), 4)}; --bridge {max(gaps.values())} closes those between boxes when this is imported"
        )
    return notes
