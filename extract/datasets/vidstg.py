"""VidSTG sentences with VidOR boxes → Samples.

A VidSTG file lists records: a segment of a video, a moment in it, and sentences about one of two objects. The boxes are
in VidOR, one file per video. Each box file is read once, and only the required tracks are kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...cache.sampling import FloatArray
from ...cache.schema import Sample, Span, Video
from ...errors import AnnotationError, UsageError
from .folders import listed, roots
from .validate import Fields, SplitReading, coordinates, describe, require_pixels, some

VIDOR_PART = {"train": "training", "val": "training", "test": "validation"}
"""VidSTG's val split is a part of VidOR's training part. Its test split is VidOR's validation part."""

KINDS = {"questions": "interrogative", "captions": "declarative"}
"""Lists of sentences in the order they are numbered, and the qtype of each."""


@dataclass(frozen=True)
class Relation:
    """One record: a segment, a moment, and the sentences about it."""

    index: int
    where: Fields
    vid: str
    width: int
    height: int
    fps: float
    frame_count: int
    segment: Span
    moment: Span
    sentences: list[tuple[int, str, str, int]]
    """(running number, text, qtype, target tid)"""

    @classmethod
    def read(cls, where: Fields, index: int, first_id: int, reading: SplitReading) -> Relation:
        used, moment = where.child("used_segment"), where.child("temporal_gt")
        relation = cls(
            index,
            where,
            vid=where.text("vid"),
            width=where.integer("width", 1),
            height=where.integer("height", 1),
            fps=where.positive("fps"),
            frame_count=where.integer("frame_count", 1),
            segment=where.span("used_segment", used.integer("begin_fid"), used.integer("end_fid")),
            moment=where.span("temporal_gt", moment.integer("begin_fid"), moment.integer("end_fid")),
            sentences=list(_sentences(where, first_id)),
        )
        reading.check_rate(where, "fps", relation.fps)
        # The last frame of a video is in no segment, since used_segment's end is inclusive there and exclusive
        # elsewhere; hence a moment may end one frame after it.
        reading.check_inside(
            where, relation.video(""), relation.segment, relation.moment, ("used_segment", "temporal_gt"), slack=1
        )
        return relation

    def video(self, path: str) -> Video:
        return Video(self.vid, path, self.width, self.height, self.fps, self.frame_count)

    @property
    def targets(self) -> set[int]:
        return {tid for *_, tid in self.sentences}


def _sentences(where: Fields, first_id: int) -> Iterator[tuple[int, str, str, int]]:
    tids = [entry.integer("tid") for entry in where.children("subject/objects")]
    if len(set(tids)) < len(tids):
        raise where.fault("subject/objects", "a tid occurs twice", found=some(tids))
    number = first_id
    for key, qtype in KINDS.items():
        for sentence in where.children(key):
            target = sentence.integer("target_id")
            if target not in tids:
                raise sentence.fault("target_id", "no such object", expected=f"one of {some(tids)}", found=target)
            yield number, sentence.sentence("description"), qtype, target
            number += 1


def read(file: Path, reading: SplitReading) -> list[Sample]:
    """All sentences of ``file``, sorted by number. The boxes are in one file per video, below group folders.

    Sentences are numbered over the whole file: in every record first the questions, then the captions. A dropped record
    keeps its numbers. Raises AnnotationError, or adds it to ``reading``.
    """
    by_video: dict[str, list[Relation]] = {}
    for relation in _relations(file, reading):
        if relation.sentences:
            by_video.setdefault(relation.vid, []).append(relation)
    files = _box_files(reading.box_folders)
    samples: list[Sample] = []
    for vid, relations in by_video.items():
        if not reading.boxes:
            samples += _samples(relations, None, reading)
            continue
        with reading.record():  # a fault of a VidOR file affects all records of its video
            if vid not in files:
                raise relations[0].where.fault(
                    "vid",
                    f"video {vid} has no VidOR annotation",
                    expected=f"*/{vid}.json below {' or '.join(map(str, reading.box_folders))}",
                    records=some([r.index for r in relations]),
                )
            trajectories = Trajectories(_the_one(files[vid], relations[0]), relations, reading)
            samples += _samples(relations, trajectories, reading)
    return sorted(samples, key=lambda s: int(s.sample_id))


def find_vidor(path: Path, split: str, vidor: Path | None = None) -> list[Path]:
    """The folder with VidOR's box files for a VidSTG split, in a list. Raises UsageError."""
    part = VIDOR_PART[split]
    bases = [vidor] if vidor else [b for root in roots(path) for b in (root / "vidor", root, root.parent / "vidor")]
    for base in bases:
        for folder in (base / "annotation" / part, base / part):
            if os.path.isdir(folder):
                return [folder]
    if vidor and vidor.name == part and os.path.isdir(vidor):
        return [vidor]
    raise UsageError(
        f"no VidOR annotations for the {split} split of VidSTG",
        expected=f"a folder annotation/{part} or {part}, with <group>/<video>.json in it",
        looked_in=listed(bases),
        hint="--vidor DIR, the folder that holds annotation/ or training/ and validation/",
    )


def _box_files(vidor: list[Path]) -> dict[str, list[Path]]:
    """VidOR's files by video, without hidden ones. A file with two names counts once."""
    files: dict[str, dict[str, Path]] = {}
    for folder in vidor:
        for found in sorted(folder.rglob("*.json")):
            if not any(part.startswith(".") for part in found.relative_to(folder).parts):
                files.setdefault(found.stem, {}).setdefault(os.path.realpath(found), found)
    return {vid: list(found.values()) for vid, found in files.items()}


def _the_one(files: list[Path], relation: Relation) -> Path:
    if len(files) > 1:
        raise relation.where.fault(
            "vid",
            f"{len(files)} different VidOR files are called {files[0].name}",
            found=some([str(file) for file in files], 3),
            hint="keep the one of the video's group",
        )
    return files[0]


def _relations(file: Path, reading: SplitReading) -> Iterator[Relation]:
    records = reading.load(file)
    if not isinstance(records, list):
        raise AnnotationError(file, None, "", "not a list of records", expected="[...]", found=describe(records))
    reading.records = len(records)
    number = 0
    for index, record in enumerate(records):
        with reading.record():
            yield Relation.read(Fields.of(record, file, index), index, number, reading)
        lists = [record.get(key) for key in KINDS] if isinstance(record, dict) else []
        counts = [len(sentences) if isinstance(sentences, list) else 0 for sentences in lists]
        numbers = range(number, number := number + sum(counts))
        questions = counts[0] if counts else 0
        reading.captions_first += [*numbers[questions:], *numbers[:questions]]


def _samples(relations: list[Relation], trajectories: Trajectories | None, reading: SplitReading) -> Iterator[Sample]:
    for relation in relations:
        with reading.record():
            if trajectories:
                trajectories.check_agreement(relation, reading)
            yield from list(_of_record(relation, trajectories, reading))  # all of a record's sentences, or none


def _of_record(relation: Relation, trajectories: Trajectories | None, reading: SplitReading) -> Iterator[Sample]:
    start, end = relation.moment
    video = relation.video(trajectories.video_path if trajectories else f"{relation.vid}.mp4")
    for number, sentence, qtype, tid in relation.sentences:
        boxes = trajectories.boxes(tid, relation.moment) if trajectories else np.full((end - start, 4), np.nan)
        sample = Sample(
            number, video, sentence, qtype, reading.split, relation.segment, relation.moment, boxes, target_id=str(tid)
        )
        if reading.admit(relation.where, sample, "temporal_gt", f"target_id {tid}, boxes of {relation.vid}.json"):
            yield sample


class Trajectories:
    """One VidOR file: the tracks of the required objects, over the required frames."""

    def __init__(self, file: Path, relations: list[Relation], reading: SplitReading) -> None:
        self.reading = reading
        self.where = Fields.of(reading.load(file, repeated_keys=True), file, None)
        per_frame = self.where.array("trajectories")
        self.length = len(per_frame)
        self.spans = {tid: _hull(r.moment for r in relations if tid in r.targets) for tid in _all_targets(relations)}
        self.rows = self._collect(per_frame)
        self.tracks: dict[int, FloatArray] = {}
        del self.where.values["trajectories"]

    @cached_property
    def video_path(self) -> str:
        if self.reading.for_scoring:  # no video is opened
            return f"{self.where.file.parent.name}/{self.where.file.stem}.mp4"
        return self.where.text("video_path")

    def _collect(self, per_frame: list[Any]) -> dict[int, list[tuple[int, tuple[object, ...]]]]:
        """For each required object: frame and box of every entry in its span, unchecked."""
        rows: dict[int, list[tuple[int, tuple[object, ...]]]] = {tid: [] for tid in self.spans}
        start, end = _hull(self.spans.values())
        for frame, entries in enumerate(per_frame[start:end], start):
            try:
                for entry in entries:
                    tid = entry["tid"]
                    if tid in rows and self.spans[tid][0] <= frame < self.spans[tid][1]:
                        box = entry["bbox"]
                        rows[tid].append((frame, (box["xmin"], box["ymin"], box["xmax"], box["ymax"])))
            except (KeyError, TypeError):
                raise self.where.fault(
                    f"trajectories[{frame}]",
                    "not the boxes of one frame",
                    expected='[{"tid": 0, "bbox": {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}}, ...]',
                    found=describe(entries),
                ) from None
        return rows

    def check_agreement(self, relation: Relation, reading: SplitReading) -> None:
        """Check that VidSTG and VidOR describe the same video, and that frames are listed up to the moment's end."""
        if reading.for_scoring:
            return
        fps = self.where.positive("fps")
        if not math.isclose(fps, relation.fps, rel_tol=1e-6):
            raise self._disagrees(relation, "fps", relation.fps, fps)
        for key in ("width", "height", "frame_count"):
            mine, theirs = getattr(relation, key), self.where.integer(key, 1)
            if mine != theirs:
                raise self._disagrees(relation, key, mine, theirs)
        if self.length < relation.moment[1]:
            raise relation.where.fault(
                "temporal_gt.end_fid",
                f"VidOR's trajectories of {self.where.file} end before it",
                expected=f"at least {relation.moment[1]} frames",
                found=f"{self.length} frames",
            )

    def _disagrees(self, relation: Relation, key: str, mine: object, theirs: object) -> AnnotationError:
        return relation.where.fault(key, f"differs from VidOR's {self.where.file}", VidSTG=mine, VidOR=theirs)

    def boxes(self, tid: int, moment: Span) -> FloatArray:
        """Boxes of one object, one row per frame of ``moment``, NaN where it has none. Returns a view of its track."""
        if tid not in self.tracks:
            self.tracks[tid] = self._track(tid)
        first = self.spans[tid][0]
        return self.tracks[tid][moment[0] - first : moment[1] - first]

    def _track(self, tid: int) -> FloatArray:
        start, end = self.spans[tid]
        frames = [frame for frame, _ in self.rows[tid]]
        if len(set(frames)) < len(frames):
            twice = sorted({frame for frame in frames if frames.count(frame) > 1})
            raise self.where.fault(
                "trajectories", f"tid {tid} has two boxes in one frame", found=f"frames {some(twice)}"
            )
        found = coordinates(self.where, "trajectories", [box for _, box in self.rows[tid]], frames)
        require_pixels(self.where, "trajectories", found, frames, or_absent=self.reading.for_scoring)
        track = np.full((end - start, 4), np.nan)
        track[np.array(frames, dtype=np.int64) - start] = found
        return track


def _all_targets(relations: Iterable[Relation]) -> set[int]:
    return {tid for relation in relations for tid in relation.targets}


def _hull(spans: Iterable[Span]) -> Span:
    starts, ends = zip(*spans, strict=True)
    return min(starts), max(ends)
