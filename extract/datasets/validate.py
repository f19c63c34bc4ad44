"""Annotation files, read field by field: every error names the file, the record and the field.

This module has what all datasets share: fields of a known type, and the checks that every sample must pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.sampling import FloatArray, IntArray, Sampling, slots_in
from ...cache.schema import Sample, Span, Video, has_boxes
from ...errors import AnnotationError
from .box_units import BoxUnits
from .json_file import read_json

LARGEST = 10_000_000
"""Maximum of whole numbers in an annotation: 90 hours of video. It prevents a mistyped number from filling the memory.
"""


def describe(value: object) -> str:
    """A JSON value for an error message, shortened to 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class Fields:
    """One JSON object of an annotation file. Every method raises AnnotationError naming the faulty field."""

    values: dict[str, Any]
    file: Path
    record: object
    """Key or index of the record; None for the file as a whole."""
    prefix: str = ""

    @classmethod
    def of(cls, value: object, file: Path, record: object, name: str = "") -> Fields:
        if not isinstance(value, dict):
            raise AnnotationError(file, record, name, "not an object", expected="{...}", found=describe(value))
        return cls(value, file, record, name + "." if name else "")

    def fault(self, key: str, message: str, **facts: object) -> AnnotationError:
        """The error for field ``key`` ('' for the record itself)."""
        return AnnotationError(self.file, self.record, (self.prefix + key).rstrip("."), message, **facts)

    def _get(self, key: str, kind: str) -> Any:
        if key not in self.values:
            raise self.fault(key, "missing", expected=kind, found=f"only {', '.join(self.values) or 'an empty object'}")
        return self.values[key]

    def integer(self, key: str, at_least: int = 0) -> int:
        kind = f"a whole number from {at_least} to {LARGEST:,}"
        value = self._get(key, kind)
        if type(value) is not int or not at_least <= value <= LARGEST:  # Python's bool is a subclass of int
            raise self.fault(key, "not such a number", expected=kind, found=describe(value))
        return value

    def positive(self, key: str) -> float:
        value = self._get(key, "a number above 0")
        if type(value) not in (int, float) or not 0 < value <= LARGEST:
            raise self.fault(key, "not such a number", expected="a number above 0", found=describe(value))
        return float(value)

    def text(self, key: str) -> str:
        value = self._get(key, "a text")
        if not isinstance(value, str) or not value.strip():
            raise self.fault(key, "not a text, or an empty one", expected="a text", found=describe(value))
        return self.whole_characters(key, value)

    def whole_characters(self, key: str, text: str) -> str:
        """``text`` unchanged, if UTF-8 can encode it: not half an emoji, and not a file name in another encoding."""
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise self.fault(
                key,
                "half of a surrogate pair, which is no character",
                found=describe(text),
                hint="write the whole character; a file name that is not UTF-8 becomes such halves: rename the file",
            )
        return text

    def sentence(self, key: str) -> str:
        """A text with normalised white space: runs and no-break spaces become one space. Nothing else changes."""
        return " ".join(self.text(key).split())

    def array(self, key: str) -> list[Any]:
        value = self._get(key, "a list")
        if not isinstance(value, list):
            raise self.fault(key, "not a list", expected="[...]", found=describe(value))
        return value

    def child(self, key: str) -> Fields:
        return Fields.of(self._get(key, "an object"), self.file, self.record, self.prefix + key)

    def children(self, key: str) -> list[Fields]:
        """A list of objects."""
        name = self.prefix + key
        return [Fields.of(v, self.file, self.record, f"{name}[{i}]") for i, v in enumerate(self.array(key))]

    def span(self, key: str, start: object, end: object) -> Span:
        """Check that ``start`` and ``end`` make a half-open span of source frames with at least one frame."""
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= LARGEST:
            raise self.fault(
                key,
                "not a span of frames",
                expected="whole numbers 0 <= begin < end, the end excluded",
                found=f"begin {describe(start)}, end {describe(end)}",
            )
        return start, end


def coordinates(where: Fields, key: str, rows: Sequence[object], names: Sequence[object]) -> FloatArray:
    """Boxes as listed: n rows of four numbers → (n, 4). ``names``: row names for messages. NaN and infinity pass."""
    for name, row in zip(names, rows, strict=True):
        if not isinstance(row, list | tuple) or len(row) != 4 or not {type(v) for v in row} <= {int, float}:
            raise where.fault(f"{key}[{name}]", "not a box", expected="four numbers", found=describe(row))
    try:
        return np.array(rows, dtype=np.float64).reshape(-1, 4)
    except OverflowError:
        raise where.fault(key, "a coordinate with hundreds of digits", expected="pixels") from None


def require_pixels(
    where: Fields, key: str, boxes: FloatArray, names: Sequence[object], *, or_absent: bool = False
) -> None:
    """Raise AnnotationError for boxes (n, 4) with a coordinate that is not finite or exceeds `LARGEST`.

    ``or_absent``: make such a box NaN instead.
    """
    bad = np.flatnonzero(~(np.abs(boxes) <= LARGEST).all(axis=1))
    if or_absent:
        boxes[bad] = np.nan
    elif bad.size:
        name, found = names[bad[0]], boxes[bad[0]].tolist()
        raise where.fault(f"{key}[{name}]", "a coordinate that is no number of pixels", found=found)


@dataclass
class SplitReading:
    """Parameters of a reader, and what it records while reading."""

    split: str
    sampling: Sampling = field(default_factory=Sampling)
    skip: bool = False
    """Drop a faulty record and record its fault, instead of raising it."""
    for_scoring: bool = False
    """Check only what scoring needs."""
    boxes: bool = True
    """False: sentences only, all boxes NaN (VidSTG without VidOR)."""
    box_folders: list[Path] = field(default_factory=list)
    """Folders of separate box files."""
    dropped: list[AnnotationError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    captions_first: list[int] = field(default_factory=list)
    """VidSTG: as in `Annotations`."""
    records: int = 0
    unseen: list[int | str] = field(default_factory=list)
    """Training samples that are left out because their moment contains no sampled frame."""
    units: BoxUnits = field(default_factory=BoxUnits)
    leaving: dict[int | str, int] = field(default_factory=dict)
    """Number of boxes that reach beyond the picture, per sample."""

    @contextmanager
    def record(self) -> Iterator[None]:
        """Context of one record: raises its fault, or records it if ``skip`` is set."""
        try:
            yield
        except AnnotationError as error:
            if not self.skip:
                raise
            error.__context__ = None  # otherwise the error would keep the record's whole file in memory
            self.dropped.append(error.with_traceback(None))

    def load(self, file: Path, *, repeated_keys: bool = False) -> Any:
        """Read a JSON file and add its digest to those of the annotations."""
        value, digest = read_json(file, repeated_keys=repeated_keys)
        self.digests.append(digest)
        return value

    def check_rate(self, where: Fields, key: str, fps: float) -> None:
        if self.sampling.fps > fps:
            raise where.fault(
                key,
                "the video has fewer frames per second than are to be looked at",
                expected=f"at least {self.sampling.fps:g}",
                found=f"{fps:g}",
                hint=f"sample at {fps:g} frames per second or fewer, or leave the record out",
            )

    def check_inside(
        self, where: Fields, video: Video, segment: Span, moment: Span, keys: tuple[str, str], slack: int = 0
    ) -> None:
        """Check that the segment is inside the video and the moment inside the segment.

        A moment may end ``slack`` frames after the segment. ``keys``: names of segment and moment in the file. For
        scoring, any moment is accepted.
        """
        if self.for_scoring:
            return
        if segment[1] > video.frame_count:
            raise where.fault(
                keys[0], "ends after the video", expected=f"an end of at most {video.frame_count}", found=segment[1]
            )
        last = min(segment[1] + slack, video.frame_count)
        if not segment[0] <= moment[0] < segment[1] or moment[1] > last:
            raise where.fault(
                keys[1],
                f"not inside the {keys[0]}",
                expected=f"a begin in {_span(segment)}, an end of at most {last}",
                found=_span(moment),
            )

    def admit(
        self, where: Fields, sample: Sample, moment_key: str, box_key: str, *, absent_hint: str | None = None
    ) -> bool:
        """The checks that every sample must pass. The keys name the fields of moment and boxes.

        ``absent_hint``: the hint for sampled frames without a box. Returns False for a training sample whose moment
        contains no sampled frame: it is left out with a warning.
        """
        frames = sample.frames(self.sampling)
        inside = frames[slots_in(frames, sample.moment)]
        if not inside.size and not self.for_scoring:
            if self.split == "train":
                self.unseen.append(sample.sample_id)
                return False
            raise where.fault(
                moment_key,
                "no sampled frame falls into it",
                expected=f"a frame of {_span(sample.moment)}",
                found=f"frames {some(frames)}",
                hint="a higher fps or more frames per clip, or leave the record out",
            )
        if not self.boxes:
            return True
        absent = inside[~has_boxes(sample.boxes_at(inside))]
        if absent.size:
            raise where.fault(
                box_key,
                f"target {sample.target_id} has no box in {absent.size} of {inside.size} sampled frames of the moment",
                expected=f"a box in every sampled frame of {_span(sample.moment)}",
                found=f"none in frames {some(absent)}",
                hint=absent_hint or "leave the record out: there is nothing to learn or score in these frames",
            )
        if not self.for_scoring:
            self._check_area(where, sample, box_key)
        return True

    def _check_area(self, where: Fields, sample: Sample, key: str) -> None:
        """Check that every box of the moment, sampled or not, has an area inside the picture."""
        boxes = sample.boxes
        limit = np.array([sample.video.width, sample.video.height] * 2, dtype=np.float64)
        self.units.add(sample)
        clamped = np.clip(boxes, 0, limit)
        empty = (clamped[:, 2:] <= clamped[:, :2]).any(axis=1)  # false for NaN, which means no box
        if empty.any():
            row = int(np.argmax(empty))
            alone = BoxUnits(self.units.sized)
            alone.add(sample)
            raise where.fault(
                key,
                "a box without area inside the picture",
                expected=f"x1 < x2 and y1 < y2 within {sample.video.width}x{sample.video.height}",
                found=f"[x1, y1, x2, y2] = {boxes[row].tolist()} at frame {sample.moment[0] + row}"
                + (f", and {int(empty.sum()) - 1} more" if empty.sum() > 1 else ""),
                hint=next(alone.doubts(), None),
            )
        beyond = int(((boxes < 0) | (boxes > limit)).any(axis=1).sum())
        if beyond:
            self.leaving[sample.sample_id] = beyond


def some(numbers: IntArray | Sequence[object], most: int = 8) -> str:
    """The first ``most`` elements of a list, for a message."""
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > most else "")


def _span(span: Span) -> str:
    return f"[{span[0]}, {span[1]})"
