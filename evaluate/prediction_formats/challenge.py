"""HC-STVG challenge JSON, as --export challenge writes it: one tube per video, frames counted from 1, both ends
inclusive.

{"1_x.mp4": {"st_frame": 91, "ed_frame": 150, "bbox": {"91": [x1, y1, x2, y2], …}}, …}

``bbox_outside`` has the boxes of frames outside the moment, in the same form. The challenge's script ignores it.
"""

from __future__ import annotations

from typing import Any

from ...cache.schema import Sample, Tube
from ...wording import counted
from .fields import Fault, read_boxes, read_number, shown
from .numbering import LINES, ScoredSplit

FIRST_FRAME = 1


def recognise(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    first = next(iter(content.values()), None)
    return isinstance(first, dict) and "bbox" in first and bool({"st_frame", "ed_frame"} & first.keys())


def read(content: Any, split: ScoredSplit) -> dict[int | str, Tube]:
    """Raises PredictionError naming the video and the field, and if a video has several sentences."""
    by_video: dict[str, list[Sample]] = {}
    for sample in split.samples:
        by_video.setdefault(sample.video.video_id, []).append(sample)
    found: dict[int | str, Tube] = {}
    for video, record in content.items():
        fault = split.fault(video)
        samples = by_video.get(video, [])
        if len(samples) > 1:
            raise fault(
                "",
                f"the video has {counted(len(samples), 'sentence')} and the format names none",
                expected="one sentence a video, as in HC-STVG",
                found=", ".join(str(s.sample_id) for s in samples[:5]),
                hint=LINES,
            )
        sample_id = samples[0].sample_id if samples else video
        found[sample_id] = _tube(sample_id, record, fault)
    return found


def _tube(sample_id: int | str, record: Any, fault: Fault) -> Tube:
    if not isinstance(record, dict):
        raise fault("", "not an object", expected='{"st_frame": …, "ed_frame": …, "bbox": {…}}', found=shown(record))
    for name in ("st_frame", "ed_frame", "bbox"):
        if name not in record:
            raise fault(name, "the field is missing", expected=name, found=", ".join(record))
    first, last = (read_number(record[name], name, fault) for name in ("st_frame", "ed_frame"))
    if first < FIRST_FRAME:
        raise fault("st_frame", "frames are counted from 1", expected="1 or more", found=shown(record["st_frame"]))
    boxes, outside = record["bbox"], record.get("bbox_outside")
    if isinstance(boxes, dict) and isinstance(outside, dict):
        boxes = outside | boxes
    frames, coordinates = read_boxes(boxes, fault, "bbox", FIRST_FRAME)
    return Tube(sample_id, first - FIRST_FRAME, last, frames, coordinates)
