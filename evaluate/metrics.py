"""Temporal, tube and box overlap of a prediction with its annotation, under a named protocol, and means per group.

NumPy only. Everything is source frames (half-open) and source pixels. With the annotated moment G, the predicted one P,
and IoU(t) the overlap of the two boxes at frame t:

    tIoU     |G ∩ P| / |G ∪ P|, in source frames; 0 when they only touch
    vIoU     sum of IoU(t) over scored frames in both G and P / scored frames in their hull
    gt_vIoU  mean of IoU(t) over the scored frames of G, wherever P lies
    vIoU@R   share of samples whose vIoU is above R, never at it

The hull [min of starts, max of ends) is the union whenever the moments meet; when they do not, vIoU is 0 either way.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..cache.sampling import FloatArray, IntArray, Sampling, interpolate_boxes, slots_in
from ..cache.schema import Sample, has_boxes
from ..errors import AnnotationError, PredictionError, UsageError
from ..requested import PROTOCOLS
from .bootstrap import intervals
from .predictions import Prediction

METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "gt_vIoU")
THRESHOLDS = (0.3, 0.5)

Id = int | str


SELECTED = "selected_on_this_split"
"""What files of scores call it, where it is so."""


@dataclass(frozen=True)
class SampleScore:
    """The three overlaps of one sample, fractions in [0, 1]."""

    sample_id: Id
    video_id: str
    sentence: str
    qtype: str
    tIoU: float
    vIoU: float
    gt_vIoU: float


@dataclass(frozen=True)
class Scores:
    """Means per group beside the samples they come from. Fractions, never percent."""

    protocol: str
    sampling: Sampling
    """Which frames ``tubedetr`` scored; the other protocols score every source frame."""
    scored: int
    """Samples that had a prediction."""
    missing: list[Id]
    """Samples that had none. Left out of every mean, except under ``hcstvg_official``, where they count as 0."""
    groups: dict[str, dict[str, float]]
    """Per qtype: ``METRICS``, and ``gt_vIoU@0.3`` and ``gt_vIoU@0.5`` besides."""
    samples: list[SampleScore]
    selected_on_this_split: bool = False
    """Whether the checkpoint was chosen, among several, by its scores on this very split."""

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per group and metric, the 95 % interval of the mean over other draws of videos; see `bootstrap`."""
        found = {}
        for name in self.groups:
            rows = [s for s in self.samples if s.qtype == name]
            found[name] = dict(zip(METRICS, intervals(counted(rows), [s.video_id for s in rows]), strict=True))
        return found

    def to_json(self) -> dict[str, Any]:
        keys = ("sample_id", "video_id", "sentence", "qtype", "tIoU", "vIoU", "gt_vIoU")
        return {
            "protocol": self.protocol,
            "fps": self.sampling.fps,
            "max_frames": self.sampling.max_frames,
            "scored": self.scored,
            "missing": len(self.missing),
            **({SELECTED: True} if self.selected_on_this_split else {}),
            "groups": {name: {metric: means[metric] for metric in METRICS} for name, means in self.groups.items()},
            "intervals": {
                name: {metric: None if math.isnan(found[0]) else found for metric, found in of_group.items()}
                for name, of_group in self.intervals().items()
            },
            "samples": [{key: row[key] for key in keys} for row in map(asdict, self.samples)],
        }


def counted(rows: Sequence[SampleScore]) -> FloatArray:
    """What the columns of METRICS are means of: (n, 5)."""
    table = np.array([(s.tIoU, s.vIoU, s.gt_vIoU) for s in rows]).reshape(-1, 3)
    above = [(table[:, 1] > limit).astype(float) for limit in THRESHOLDS]
    return np.stack([table[:, 0], table[:, 1], *above, table[:, 2]], axis=1)


def score_sample(sample: Sample, prediction: Prediction, protocol: str, sampling: Sampling) -> SampleScore:
    """Score one prediction. Its moment may be fractional, empty, inverted, or outside the clip: that only costs score.

    ``tubedetr``
        The field's usual evaluator, to the last digit: the frames of the sample's clip at ``sampling``, boxes as they
        are, the moment unclipped, and HC-STVG's 1-based first frame read as 0-based (``Sample.baseline_shift``).
    ``dense``
        Every source frame, as STCAT and CG-STVG score: predicted boxes interpolated, and cut at 0 on the left and top
        (before interpolation), annotated ones too. They differ in two points. Their tIoU reads an inclusive last frame
        as exclusive, which shortens the moment by one frame; here it is half-open as everywhere. And they reject or
        leave out frames without a predicted box, where here interpolation gives one. Moments are whole frames: a
        fractional prediction is the frames inside it, so that tIoU and vIoU count the same ones and vIoU <= tIoU.
    ``hcstvg_official``
        Every source frame as HC-STVG's script counts: frames in both over the length of the hull, boxes as they are.
        The script wants inclusive ends and a box for each predicted frame; frames [start, end) are exactly those.

    Raises AnnotationError when the target has no box at an annotated frame that is scored.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"there is no protocol {protocol!r}", expected=", ".join(PROTOCOLS))
    start, end, given = prediction.start, prediction.end, prediction.boxes
    if protocol == "tubedetr":
        shift = sample.baseline_shift
        moment = (sample.moment[0] + shift, sample.moment[1] + shift)
        clip = sample.frames(sampling)
        hull = float(np.count_nonzero(slots_in(clip, (min(moment[0], start), max(moment[1], end)))))
        frames = clip[slots_in(clip, moment)]
    else:
        shift, moment = 0, sample.moment
        start, end = float(math.ceil(start)), float(math.ceil(end))
        hull = max(moment[1], end) - min(moment[0], start)
        frames = np.arange(*moment, dtype=np.int64)
    target = _target_boxes(sample, frames - shift)
    if protocol == "dense":
        given, target = np.maximum(given, 0), np.maximum(target, 0)
    iou = box_iou(interpolate_boxes(prediction.frames, given, frames), target)
    in_both = slots_in(frames, (start, end))
    return SampleScore(
        *_names(sample),
        tIoU=span_iou(moment, (start, end)),
        vIoU=float(iou[in_both].sum()) / max(1, hull),
        gt_vIoU=float(iou.mean()) if len(iou) else 0.0,
    )


def _names(sample: Sample) -> tuple[Id, str, str, str]:
    return sample.sample_id, sample.video.video_id, sample.sentence, sample.qtype


def score(
    samples: Iterable[Sample],
    predictions: Mapping[Id, Prediction],
    *,
    protocol: str = "tubedetr",
    sampling: Sampling | None = None,
    allow_missing: bool = False,
) -> Scores:
    """Score a split. ``samples`` is walked once; ``sampling`` defaults to 5 frames a second, at most 100.

    Raises PredictionError when a prediction has no sample, when a sample has no prediction unless ``allow_missing``,
    and when no sample has one.
    """
    sampling = sampling or Sampling()
    known: dict[Id, None] = {}
    missing: list[Id] = []
    scores: list[SampleScore] = []
    for sample in samples:
        known[sample.sample_id] = None
        if (prediction := predictions.get(sample.sample_id)) is not None:
            scores.append(score_sample(sample, prediction, protocol, sampling))
            continue
        missing.append(sample.sample_id)
        if protocol == "hcstvg_official":
            scores.append(SampleScore(*_names(sample), tIoU=0.0, vIoU=0.0, gt_vIoU=0.0))
    _refuse_unknown(predictions, known)
    scored = len(known) - len(missing)
    if missing and not (allow_missing and scored):
        raise PredictionError(
            f"{len(missing)} of {len(known)} samples have no prediction",
            found="none for " + _first(missing),
            effect="nothing was scored",
            hint="--allow-missing scores the others and reports the count" if scored else None,
        )
    return Scores(protocol, sampling, scored, missing, _means(scores), scores)


def span_iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Overlap of two half-open spans: intersection over union, 0 when they do not share any time."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared) if shared > 0 else 0.0


def box_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Overlap of xyxy boxes, row by row: (n, 4), (n, 4) → (n,). A box without area overlaps nothing."""
    with np.errstate(over="ignore", invalid="ignore"):  # finite coordinates of any size may come out of a file
        width, height = np.moveaxis(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), -1, 0)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        union = _area(a) + _area(b) - shared
        return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _area(boxes: FloatArray) -> FloatArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _target_boxes(sample: Sample, frames: IntArray) -> FloatArray:
    boxes = sample.boxes_at(frames)
    absent = frames[~has_boxes(boxes)]
    if absent.size:
        raise AnnotationError(
            sample.video.path,
            sample.sample_id,
            "boxes",
            f"the target has no box at {absent.size} of {frames.size} annotated frames that are scored",
            found=f"none at frames {_first(absent.tolist())}",
            effect="the sample cannot be scored",
            hint="leave the sample out; protocol tubedetr needs boxes at sampled frames only",
        )
    return boxes


def _means(scores: list[SampleScore]) -> dict[str, dict[str, float]]:
    groups: dict[str, dict[str, float]] = {}
    for qtype in sorted({s.qtype for s in scores}):
        table = np.array([(s.tIoU, s.vIoU, s.gt_vIoU) for s in scores if s.qtype == qtype])
        means = dict(zip(("m_tIoU", "m_vIoU", "gt_vIoU"), table.mean(axis=0).tolist(), strict=True))
        for column, name in ((1, "vIoU"), (2, "gt_vIoU")):
            means |= {f"{name}@{limit}": float((table[:, column] > limit).mean()) for limit in THRESHOLDS}
        groups[qtype] = means
    return groups


def _refuse_unknown(predictions: Mapping[Id, Prediction], known: Collection[Id]) -> None:
    unknown = [i for i in predictions if i not in known]
    if unknown:
        raise PredictionError(
            f"{len(unknown)} of {len(predictions)} predictions are for samples that this split does not have",
            expected=f"ids such as {_first(list(known)[:3])}" if known else "nothing: the split is empty",
            found=_first(unknown),
            effect="nothing was scored",
            hint=_nearest(unknown[0], known),
        )


def _nearest(unknown: Id, known: Collection[Id]) -> str:
    same = {str(i): i for i in known}
    if str(unknown) in same:
        kind = "a number" if isinstance(unknown, str) else "a string"
        return f"ids of this split are {kind}: write {_first([same[str(unknown)]])}, not {_first([unknown])}"
    if isinstance(unknown, str) and (close := difflib.get_close_matches(unknown, same, n=1)):
        return f"did you mean {_first([same[close[0]]])}?"
    return "see that the file was made for this dataset and split"


def _first(ids: list[Any]) -> str:
    """The first few of a list, as JSON would write them, and how many more."""
    shown = ", ".join(f'"{i}"' if isinstance(i, str) else str(i) for i in ids[:5])
    return shown + (f", and {len(ids) - 5} more" if len(ids) > 5 else "")
