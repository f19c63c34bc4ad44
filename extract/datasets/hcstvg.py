"""HC-STVG, versions 1 and 2 → Samples: one sentence about one person per 20-second video.

A file is one object keyed by video file name. The versions differ in the names of a few fields; both names are accepted
in both versions.
"""

from __future__ import annotations

from pathlib import Path

from ...cache.schema import Sample, Video
from ...errors import AnnotationError
from ...wording import counted
from .validate import LARGEST, Fields, SplitReading, coordinates, describe, require_pixels

SECONDS = 20
"""Length of every video by definition. Its frame rate is taken as img_num / 20, as in the field's code."""

BASELINE_SHIFT = 1
"""The field's evaluator reads the 1-based ``st_frame`` as 0-based."""


def read(file: Path, reading: SplitReading) -> list[Sample]:
    """All records of ``file``, in its order. Raises AnnotationError, or adds it to ``reading``."""
    records = reading.load(file)
    if not isinstance(records, dict):
        raise AnnotationError(
            file, None, "", "not an object keyed by video", expected='{"1_x.mp4": {...}}', found=describe(records)
        )
    reading.records = len(records)
    reading.units.sized = True
    samples, odd = [], []
    for name, record in records.items():
        with reading.record():
            where = Fields.of(record, file, name)
            sample = _sample(name, where, reading)
            if reading.admit(where, sample, "st_frame", "bbox"):
                samples.append(sample)
                if _plays_at_another_rate(record, sample):
                    odd.append(name)
    if odd:
        reading.warnings.append(
            f"{counted(len(odd), 'record')} with st_time and ed_time that do not fit a video of {SECONDS} s, such as "
            f"{odd[0]}; the frame rate is taken to be img_num / {SECONDS} all the same, as the field does"
        )
    return samples


def _sample(name: str, where: Fields, reading: SplitReading) -> Sample:
    if not name.strip():
        raise where.fault("", "the key is empty", expected="the name of a video file")
    where.whole_characters("key", name)
    frame_count = where.integer("img_num", 2)
    fps = frame_count / SECONDS
    reading.check_rate(where, "img_num", fps)
    width, height = _size(where)
    start = where.integer("st_frame", 1) - 1
    rows = where.array("bbox")
    if not rows:
        raise where.fault("bbox", "empty", expected="a box per frame of the moment")
    end = start + len(rows)
    if end > frame_count and not reading.for_scoring:
        raise where.fault(
            "bbox",
            "goes on after the video ends",
            expected=f"st_frame - 1 + number of boxes to be at most {frame_count} (img_num)",
            found=f"{start} + {len(rows)}",
        )
    boxes = coordinates(where, "bbox", rows, range(len(rows)))
    require_pixels(where, "bbox", boxes, range(len(rows)))
    boxes[:, 2:] += boxes[:, :2]  # x, y, w, h → x1, y1, x2, y2
    return Sample(
        name,
        Video(name, name, width, height, fps, frame_count),
        where.sentence("caption" if "caption" in where.values else "English"),
        "all",
        reading.split,
        # The field's code never reads the last frame, but a moment may contain it.
        segment=(0, frame_count - 1),
        moment=(start, end),
        boxes=boxes,
        baseline_shift=BASELINE_SHIFT,
    )


def _size(where: Fields) -> tuple[int, int]:
    """Width and height, from ``width`` and ``height`` or from ``img_size`` = [height, width, ...]."""
    if "img_size" not in where.values:
        return where.integer("width", 1), where.integer("height", 1)
    listed = where.array("img_size")
    if len(listed) not in (2, 3):
        raise where.fault("img_size", "not a size", expected="[height, width] or [height, width, 3]", found=listed)
    size = Fields({"height": listed[0], "width": listed[1]}, where.file, where.record, "img_size.")
    width, height = size.integer("width", 1), size.integer("height", 1)
    if not {"width", "height"} & where.values.keys():
        return width, height
    if (where.integer("width", 1), where.integer("height", 1)) != (width, height):
        raise where.fault(
            "img_size", "disagrees with width and height", expected="[height, width]", found=describe(where.values)
        )
    return width, height


def _plays_at_another_rate(record: dict[str, object], sample: Sample) -> bool:
    """Whether ed_time puts the end of the moment more than 2 % and two frames away from its frame number."""
    seconds = record.get("ed_time")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= LARGEST:  # also false for NaN
        return False
    end = sample.moment[1]
    return abs(seconds * sample.video.fps - end) > max(2, 0.02 * end)
