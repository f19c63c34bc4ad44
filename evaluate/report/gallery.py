"""Samples as data for the page: an index that is read at once, and details in blocks that are read when shown.

Arrays of a clip are encoded in base64: source frames as 32-bit integers, boxes as 16-bit fractions of the frame
(clipped to the frame), probabilities and attention as 8-bit `Shades`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cache.sampling import FloatArray, IntArray, interpolate_boxes
from ...cache.schema import Sample, Tube, Video, has_boxes
from ...extract.video.agreement import rate_is_assumed
from ...extract.video.clock import Clock
from ..metrics import Id, SampleScore
from .breakdown import PLACES, outcome
from .findings import Evidence, ReportContent, Shades

BLOCK = 200
"""Number of samples in a block of details."""

ROUNDING = 0.05
"""Tolerance in seconds, below the resolution of the page, which shows tenths."""

Shown = list[tuple[Sample, Tube, SampleScore]]


def shown(findings: ReportContent) -> Shown:
    """All samples with a tube, in the order of the split."""
    scores = {s.sample_id: s for s in findings.scores.samples}
    tubes = findings.tubes
    return [(s, tubes[s.sample_id], scores[s.sample_id]) for s in findings.samples if s.sample_id in tubes]


def clip_frames(findings: ReportContent, sample: Sample) -> IntArray:
    """Source frames of a sample's clip, (T,): the frames that the head read, or else the scored frames."""
    if sample.sample_id in findings.evidence:
        return findings.tubes[sample.sample_id].frames
    return sample.frames(findings.scores.sampling)


def index(
    findings: ReportContent,
    rows: Shown,
    chosen: Sequence[Id],
    clocks: Mapping[str, Clock] | None = None,
    live: bool = False,
) -> dict[str, Any]:
    """The columns of the index.

    ``chosen``: samples with pictures, in the order they are first shown. ``clocks``: of the videos whose files were
    read. ``live``: a server supplies the pictures of every sample.
    """
    videos = {sample.video.video_id: sample.video for sample, _, _ in rows}
    video_row = {video_id: i for i, video_id in enumerate(videos)}
    kinds = sorted({sample.qtype for sample, _, _ in rows})
    before = [{a.sample_id: a.vIoU for a, _ in other.comparison.changed} for other in findings.against]
    place = {sample.sample_id: i for i, (sample, _, _) in enumerate(rows)}
    return {
        "block": BLOCK,
        "live": live,
        "kinds": kinds,
        "chosen": [place[i] for i in chosen if i in place],
        "videos": [[v.video_id, v.width, v.height, *times(v, findings.dataset, clocks or {})] for v in videos.values()],
        "id": [sample.sample_id for sample, _, _ in rows],
        "sentence": [sample.sentence for sample, _, _ in rows],
        "video": [video_row[sample.video.video_id] for sample, _, _ in rows],
        "kind": [kinds.index(sample.qtype) for sample, _, _ in rows],
        "segment": [sample.segment for sample, _, _ in rows],
        "moment": [sample.moment for sample, _, _ in rows],
        "tube": [(round(float(tube.start), 2), round(float(tube.end), 2)) for _, tube, _ in rows],
        "tIoU": [round(score.tIoU, PLACES) for _, _, score in rows],
        "vIoU": [round(score.vIoU, PLACES) for _, _, score in rows],
        "outcome": [outcome(score) for _, _, score in rows],
        "runs": [other.name for other in findings.against],
        "before": [
            [round(of_run[i], PLACES) if (i := score.sample_id) in of_run else None for _, _, score in rows]
            for of_run in before
        ],
    }


def times(video: Video, dataset: str | None, clocks: Mapping[str, Clock]) -> tuple[float, list[float] | bool]:
    """A video's rate in frames per second, and how frames are converted to seconds.

    True: by the rate. False: not at all, because the file was not read and its annotation only assumes a rate. A list,
    for a video whose rate is not constant: the display time of each frame, and the end of the last one.
    """
    clock = clocks.get(video.video_id)
    if clock is None:
        return round(video.fps, 4), not rate_is_assumed(dataset or "")
    starts = np.append(clock.starts, clock.end)
    even = np.abs(starts - np.arange(len(starts)) / clock.rate).max() < ROUNDING
    return round(clock.rate, 4), True if even else starts.round(2).tolist()


def details(findings: ReportContent, rows: Shown, chosen: Sequence[Id]) -> list[dict[str, Any]]:
    """Blocks of BLOCK samples: the clips they share, and the boxes and evidence of each sample."""
    return [_block(findings, rows[at : at + BLOCK], set(chosen)) for at in range(0, len(rows), BLOCK)]


def _block(findings: ReportContent, rows: Shown, chosen: set[Id]) -> dict[str, Any]:
    clips: dict[bytes, int] = {}
    found = []
    for sample, tube, _ in rows:
        frames = clip_frames(findings, sample)
        truth = sample.boxes_at(frames)
        inside = np.flatnonzero(has_boxes(truth))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)
        row: dict[str, Any] = {
            "clip": clips.setdefault(frames.astype("<u4").tobytes(), len(clips)),
            "first": first,
            "truth": fractions(truth[first:last], sample),
            "guess": fractions(interpolate_boxes(tube.frames, tube.boxes, frames), sample),
        }
        if sample.sample_id in findings.evidence:
            row |= _evidence(findings.evidence[sample.sample_id], sample.sample_id in chosen)
        found.append(row)
    return {"clips": [text(clip) for clip in clips], "rows": found}


def _evidence(evidence: Evidence, whole: bool) -> dict[str, Any]:
    """``whole``: include the attention of every slot in addition to its mean."""
    found = {"start": evidence.start, "end": evidence.end, "looked_at": evidence.looked_at}
    if whole and evidence.attention is not None:
        found["attention"] = evidence.attention
    if evidence.inside is not None:
        found["inside"] = evidence.inside
    return {name: _shades(shades) for name, shades in found.items()}


def _shades(shades: Shades) -> list[float | str]:
    return [float(f"{shades.peak:.3g}"), text(shades.levels)]


def fractions(boxes: FloatArray, sample: Sample) -> str:
    """Encode boxes (n, 4) in source pixels. NaN, which means no box, becomes a box whose end is before its start."""
    size = np.array([sample.video.width, sample.video.height] * 2, dtype=np.float64)
    scaled = np.rint(np.clip(boxes / size, 0, 1) * 65535)
    scaled[~has_boxes(boxes)] = (65535, 65535, 0, 0)
    return text(scaled.astype("<u2"))


def text(numbers: bytes | NDArray[Any]) -> str:
    return base64.b64encode(numbers if isinstance(numbers, bytes) else numbers.tobytes()).decode()
