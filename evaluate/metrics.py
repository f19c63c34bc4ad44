"""Temporal, tube and box overlap of a prediction with its annotation, under a named protocol, and means per group.

NumPy only. All values are source frames (half-open) and source pixels. G is the annotated moment, P the predicted one,
and IoU(t) the overlap of the two boxes at frame t:

    tIoU     |G ∩ P| / |G ∪ P|, in source frames; 0 if the moments do not overlap
    vIoU     sum of IoU(t) over scored frames in both G and P / scored frames in their hull
    gt_vIoU  mean of IoU(t) over the scored frames of G, wherever P lies
    vIoU@R   share of samples whose vIoU is strictly above R

The hull is [min of starts, max of ends). If the moments overlap, it equals their union; otherwise vIoU is 0 anyway.
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
"""Key of this fact in score files. It is written only where true."""


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
    """Means per group, and the scores of the samples. All are fractions, not percent."""

    protocol: str
    sampling: Sampling
    """Sampling of the frames that ``tubedetr`` scored. The other protocols score every source frame."""
    scored: int
    """Number of samples with a prediction."""
    missing: list[Id]
    """Samples without a prediction: excluded from every mean, except that ``hcstvg_official`` counts them as 0."""
    groups: dict[str, dict[str, float]]
    """Per qtype: ``METRICS``, and also ``gt_vIoU@0.3`` and ``gt_vIoU@0.5``."""
    samples: list[SampleScore]
    selected_on_this_split: bool = False
    """Whether the checkpoint was selected, among several, by its scores on this split."""

    def intervals(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per group and metric, the 95 % interval of the mean over resampled videos; see `bootstrap`."""
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
    """Values of every sample, (n, 5). Their column means are METRICS."""
    table = np.array([(s.tIoU, s.vIoU, s.gt_vIoU) for s in rows]).reshape(-1, 3)
    above = [(table[:, 1] > limit).astype(float) for limit in THRESHOLDS]
    return np.stack([table[:, 0], table[:, 1], *above, table[:, 2]], axis=1)


def score_sample(sample: Sample, prediction: Prediction, protocol: str, sampling: Sampling) -> SampleScore:
    """Score one prediction. Its moment may be fractional, empty, inverted or outside the clip; that only costs score.

    ``tubedetr``
        The field's usual evaluator, reproduced to the last digit. It scores the frames of the sample's clip at
        ``sampling``. Boxes and moment are not clipped. HC-STVG's 1-based first frame is read as 0-based
        (``Sample.baseline_shift``).
    ``dense``
        Every source frame, as in STCAT and CG-STVG. Predicted boxes are clipped at 0 on the left and top, then
        interpolated; annotated boxes are clipped too. Two points differ. Their tIoU reads an inclusive last frame
        as exclusive, which shortens the moment by one frame; here it is half-open as everywhere. They reject or
        skip frames without a predicted box; here the box is interpolated. Moments are whole frames: a fractional
        prediction covers the frames inside it. So tIoU and vIoU count the same frames, and vIoU <= tIoU.
    ``hcstvg_official``
        Every source frame, as in HC-STVG's script: the sum over common frames, divided by the length of the hull.
        Boxes are not clipped. The script expects inclusive ends and a box for each predicted frame; these are
        exactly the frames [start, end).

    Raises AnnotationError if the target has no box at an annotated frame that is scored.
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
    """Score a split. ``samples`` is iterated once. ``sampling`` defaults to 5 frames per second, at most 100 frames.

    Raises PredictionError if a prediction has no sample, if a sample has no prediction (unless ``allow_missing``), and
    if no sample has a prediction.
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
    """Intersection over union of two half-open spans; 0 if they do not overlap."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared) if shared > 0 else 0.0


def box_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """IoU of xyxy boxes, row by row: (n, 4), (n, 4) → (n,). A box without area has IoU 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # coordinates from a file may be huge
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
    """The first five ids in JSON notation, and the number of further ids."""
    shown = ", ".join(f'"{i}"' if isinstance(i, str) else str(i) for i in ids[:5])
    return shown + (f", and {len(ids) - 5} more" if len(ids) > 5 else "")
