"""A CSV table of boxes (``--format csv``): a row for each key frame of an object. See docs/datasets.md."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import numpy as np

from ....wording import counted
from ..validate import LARGEST, some
from .model import Clip, Rows, Source, Track
from .text_table import read_table

REQUIRED = ("video", "track", "frame", "x1", "y1", "x2", "y2")
OPTIONAL = ("label", "outside")


def read(path: Path) -> Source:
    """Frames count from 0, boxes are xyxy in pixels; between two lines of an object boxes lie on a straight line, unless
    ``outside`` is 1 in the former: from that frame on the object is gone, until its next line. Raises AnnotationError."""
    source = Source()
    found: dict[tuple[str, str], Rows] = {}
    gone: dict[tuple[str, str], set[int]] = {}
    gaps: list[str] = []
    for row in read_table(path, REQUIRED, OPTIONAL):
        key = row.required("video"), row.required("track")
        rows = found.setdefault(key, Rows(row.text("label")))
        if row.text("label") and rows.label and row.text("label") != rows.label:
            raise row.fault("label", "another one than before for this track", expected=rows.label)
        if (outside := row.text("outside")) not in ("", "0", "1"):
            raise row.fault("outside", "neither 0 nor 1", found=outside)
        frame = row.whole("frame")
        if outside == "1":
            gone.setdefault(key, set()).add(frame)
            continue
        rows.add(frame, [row.number(name) for name in ("x1", "y1", "x2", "y2")])
    for (clip, name), rows in found.items():
        if clip not in source.clips:
            source.add_clip(path, Clip(clip))
        if not rows.frames:
            source.left_out["tracks without a box"] += 1
            continue
        held = ended(rows, gone.get((clip, name), set()))
        frames, boxes, joined = held.arrays(path, f"{clip}, track {name}")
        source.tracks.append(Track(clip, name, rows.label, frames, boxes, joined))
        steps = np.diff(frames) * joined[:-1]
        if steps.max(initial=0) > 1 and np.median(np.diff(frames)) == 1:
            gap = int(np.argmax(steps))
            gaps.append(f"{clip}/{name} from {frames[gap] + 1} to {frames[gap + 1] - 1}")
    if gaps:
        source.notes.append(
            f"{counted(len(gaps), 'track')} with a line for most frames, but not for some; boxes there lie on straight "
            f"lines, unless outside 1 says that the object is gone: {some(gaps, 4)}"
        )
    return source


def ended(rows: Rows, gone: set[int]) -> Rows:
    """Key frames of an object that is absent from some frames on: its last box is repeated in the frame before."""
    order, ends = sorted(range(len(rows.frames)), key=rows.frames.__getitem__), sorted(gone)
    held, followers = Rows(rows.label), [rows.frames[i] for i in order[1:]] + [LARGEST + 1]
    for i, following in zip(order, followers, strict=True):
        frame, place = rows.frames[i], bisect_right(ends, rows.frames[i])
        end = ends[place] if place < len(ends) and ends[place] <= following else None
        if end is not None and end - 1 > frame:
            held.add(frame, rows.boxes[i], True)
        held.add(frame if end is None else end - 1, rows.boxes[i], end is None)
    return held
