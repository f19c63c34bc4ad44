"""Users' own annotations (``--dataset json``) → Samples. The format is described in docs/datasets.md.

Unknown keys are refused with the nearest known one, because a mistyped key would go unnoticed.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np

from ...cache.sampling import FloatArray, interpolate_boxes
from ...cache.schema import Sample, Span, Video, has_boxes
from .validate import LARGEST, Fields, SplitReading, coordinates, describe, require_pixels

KEYS = {"videos", "samples"}
VIDEO_KEYS = {"file", "width", "height", "fps", "frame_count"}
SAMPLE_KEYS = {"id", "video", "sentence", "type", "segment", "moment", "target", "boxes", "interpolate"}


def read(file: Path, reading: SplitReading) -> list[Sample]:
    """All samples of ``file``, in its order. Raises AnnotationError, or adds it to ``reading``."""
    whole = Fields.of(reading.load(file), file, None)
    _refuse_unknown(whole, KEYS)
    listed = whole.array("samples")
    videos = whole.child("videos").values
    reading.records = len(listed)
    samples: list[Sample] = []
    ids: set[str] = set()
    targets: dict[tuple[str, str], list[Sample]] = {}
    for index, record in enumerate(listed):
        with reading.record():
            where = Fields.of(record, file, index)
            sample = _sample(where, videos, reading)
            if str(sample.sample_id) in ids:
                raise where.fault("id", "occurs twice", found=sample.sample_id)
            ids.add(str(sample.sample_id))
            same = targets.setdefault((sample.video.video_id, sample.target_id), [])
            _require_equal_boxes(where, sample, same)
            if reading.admit(where, sample, "moment", "boxes", absent_hint=_absent_hint(where, sample)):
                same.append(sample)
                samples.append(sample)
    return samples


def _sample(where: Fields, videos: dict[str, object], reading: SplitReading) -> Sample:
    _refuse_unknown(where, SAMPLE_KEYS)
    sample_id = where.values.get("id")
    if not isinstance(sample_id, int | str) or isinstance(sample_id, bool) or sample_id == "":
        raise where.fault("id", "not an id", expected="a text or a whole number", found=describe(sample_id))
    where.whole_characters("id", str(sample_id))
    name = where.text("video")
    if name not in videos:
        close = difflib.get_close_matches(name, videos, 1)
        hint = f"did you mean {close[0]!r}?" if close else None
        raise where.fault("video", "not among the file's videos", found=name, hint=hint)
    video = _video(Fields.of(videos[name], where.file, where.record, f"videos.{name}"), name)
    reading.check_rate(where, f"videos.{name}.fps", video.fps)
    segment = _span(where, "segment") if "segment" in where.values else (0, video.frame_count)
    moment = _span(where, "moment")
    reading.check_inside(where, video, segment, moment, ("segment", "moment"))
    return Sample(
        sample_id,
        video,
        where.sentence("sentence"),
        where.text("type") if "type" in where.values else "all",
        reading.split,
        segment,
        moment,
        _boxes(where, moment, reading),
        # Samples without a target must not share one.
        target_id=where.text("target") if "target" in where.values else f"sample {sample_id}",
    )


def _video(where: Fields, name: str) -> Video:
    _refuse_unknown(where, VIDEO_KEYS)
    return Video(
        name,
        where.text("file"),
        where.integer("width", 1),
        where.integer("height", 1),
        where.positive("fps"),
        where.integer("frame_count", 1),
    )


def _span(where: Fields, key: str) -> Span:
    listed = where.array(key)
    if len(listed) != 2:
        raise where.fault(
            key, "not a span of frames", expected="[begin, end], the end excluded", found=describe(listed)
        )
    return where.span(key, *listed)


def _boxes(where: Fields, moment: Span, reading: SplitReading) -> FloatArray:
    """One row per frame of the moment: the listed box, a box between listed frames if ``interpolate``, or NaN."""
    listed = where.child("boxes")
    interpolate = where.values.get("interpolate", False)
    if not isinstance(interpolate, bool):
        raise where.fault("interpolate", "neither true nor false", found=describe(interpolate))
    for name in listed.values:
        if not (name.isascii() and name.isdecimal()) or int(name) > LARGEST or name != str(int(name)):
            raise listed.fault(name, "not a frame number", expected='keys like "0" and "125"')
    frames = np.array([int(name) for name in listed.values], dtype=np.int64)
    boxes = coordinates(where, "boxes", list(listed.values.values()), list(listed.values))
    require_pixels(where, "boxes", boxes, list(listed.values), or_absent=reading.for_scoring)
    order = np.argsort(frames)
    frames, boxes = frames[order], boxes[order]
    found = np.full((moment[1] - moment[0], 4), np.nan)
    if interpolate and frames.size:
        wanted = np.arange(max(moment[0], frames[0]), min(moment[1], frames[-1] + 1))
        found[wanted - moment[0]] = interpolate_boxes(frames, boxes, wanted)
    else:
        inside = (frames >= moment[0]) & (frames < moment[1])
        found[frames[inside] - moment[0]] = boxes[inside]
    return found


def _absent_hint(where: Fields, sample: Sample) -> str | None:
    """The hint for frames without a box: between listed frames, before the first, or after the last."""
    listed = sorted(int(name) for name in where.values["boxes"])
    first, last = sample.moment[0], sample.moment[1] - 1
    ends = None
    if not listed or listed[0] > first or listed[-1] < last:
        ends = f"list a box at {first} and {last}, the moment's ends, or make the moment shorter"
    if where.values.get("interpolate", False):
        return ends
    lines = '"interpolate": true puts boxes on straight lines between the listed ones'
    return lines + (f"; {ends}" if ends else "")


def _require_equal_boxes(where: Fields, sample: Sample, same: list[Sample]) -> None:
    """Samples of one target share stored features, so their boxes must be equal at common frames."""
    for other in same:
        start, end = max(sample.moment[0], other.moment[0]), min(sample.moment[1], other.moment[1])
        frames = np.arange(start, max(start, end))
        mine, theirs = sample.boxes_at(frames), other.boxes_at(frames)
        differ = frames[has_boxes(mine) & has_boxes(theirs) & (mine != theirs).any(axis=1)]
        if differ.size:
            raise where.fault(
                "target",
                f"{sample.target_id!r} has other boxes in sample {other.sample_id}",
                found=f"at frame {differ[0]}",
                hint="give different objects of a video different targets",
            )


def _refuse_unknown(where: Fields, known: set[str]) -> None:
    for key in where.values:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise where.fault(
                key,
                "unknown key",
                expected=f"one of {', '.join(sorted(known))}",
                hint=f"did you mean {close[0]!r}?" if close else None,
            )
