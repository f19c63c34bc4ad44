"""Export of predictions: HC-STVG challenge JSON, COCO-style video boxes, and a CSV table of scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import open_atomic, write_atomic
from ..cache.sampling import FloatArray, IntArray, interpolate_boxes
from ..cache.schema import Sample, Tube
from ..errors import PredictionError
from ..untrusted import in_spreadsheet
from .metrics import SELECTED, Id, Scores

Tubes = Mapping[Id, Tube]


def frames_of(tube: Tube, sample: Sample) -> tuple[IntArray, FloatArray]:
    """Source frames of a tube inside its video (n,), and the interpolated boxes at these frames (n, 4), xyxy."""
    frames = np.arange(max(0, int(np.ceil(tube.start))), min(sample.video.frame_count, int(np.ceil(tube.end))))
    return frames, interpolate_boxes(tube.frames, tube.boxes, frames)


def write_challenge(path: Path, samples: Iterable[Sample], tubes: Tubes) -> None:
    """Write HC-STVG's challenge JSON: per video the first and last frame, and an xyxy box for each frame of the moment.

    Frames are counted from 1; both ends are inclusive. ``bbox_outside`` holds the tube's boxes outside the moment. The
    challenge's script ignores it, but gt_vIoU needs these boxes when the file is read back. Moments are clipped to
    whole frames of the video. A tube without such a frame is omitted.

    Raises PredictionError if a video has several sentences: the format holds one per video.
    """
    found: dict[str, Any] = {}
    for sample in samples:
        if (tube := tubes.get(sample.sample_id)) is None:
            continue
        if sample.video.video_id in found:
            raise PredictionError(
                f"video {sample.video.video_id} has several sentences",
                expected="one a video, as in HC-STVG",
                effect=f"{path} was not written",
                hint="--export coco holds any number",
            )
        frames, boxes = frames_of(tube, sample)
        if len(frames):
            outside = (tube.frames < frames[0]) | (tube.frames > frames[-1])
            found[sample.video.video_id] = {
                "st_frame": int(frames[0]) + 1,
                "ed_frame": int(frames[-1]) + 1,
                "bbox": _from_1(frames, boxes),
                **({"bbox_outside": _from_1(tube.frames[outside], tube.boxes[outside])} if outside.any() else {}),
            }
    write_atomic(path, json.dumps(found, ensure_ascii=False) + "\n")


def _from_1(frames: IntArray, boxes: FloatArray) -> dict[str, list[float]]:
    """Boxes by frame number, counted from 1."""
    return dict(zip(map(str, (frames + 1).tolist()), boxes.tolist(), strict=True))


def write_coco(path: Path, samples: Iterable[Sample], tubes: Tubes) -> None:
    """Write the videos, and a track per sentence: a box [x, y, w, h] for every source frame, null outside the tube."""
    videos: dict[str, dict[str, Any]] = {}
    tracks: list[dict[str, Any]] = []
    for sample in samples:
        if (tube := tubes.get(sample.sample_id)) is None:
            continue
        v = sample.video
        facts = {"name": v.video_id, "file_name": v.path, "width": v.width, "height": v.height, "length": v.frame_count}
        video = videos.setdefault(v.video_id, {"id": len(videos) + 1, **facts})
        frames, boxes = frames_of(tube, sample)
        boxes[:, 2:] -= boxes[:, :2]
        track: list[list[float] | None] = [None] * v.frame_count
        for frame, box in zip(frames.tolist(), boxes.round(2).tolist(), strict=True):
            track[frame] = box
        tracks.append(
            {
                "id": len(tracks) + 1,
                "video_id": video["id"],
                "category_id": 1,
                "sample_id": sample.sample_id,
                "caption": sample.sentence,
                "score": 1.0 if tube.score is None else float(tube.score),
                "bboxes": track,
            }
        )
    content = {"videos": list(videos.values()), "categories": [{"id": 1, "name": "target"}], "annotations": tracks}
    write_atomic(path, json.dumps(content, ensure_ascii=False) + "\n")


def write_csv(path: Path, samples: Iterable[Sample], tubes: Tubes, scores: Scores) -> None:
    """Write one row per sample: sentence, annotated and predicted moment, and overlaps. Missing values are empty.

    A last column is added if the checkpoint was selected by its scores on this split. Texts that a spreadsheet would
    interpret as formulas are prefixed with an apostrophe.
    """
    by_id = {s.sample_id: s for s in scores.samples}
    mark = {SELECTED: "yes"} if scores.selected_on_this_split else {}
    with open_atomic(path, text=True) as file:
        writer = csv.writer(file, lineterminator="\n")
        names = (
            "sample_id",
            "video_id",
            "qtype",
            "sentence",
            "start",
            "end",
            "predicted_start",
            "predicted_end",
            "score",
        )
        writer.writerow([*names, "tIoU", "vIoU", "gt_vIoU", *mark])
        for sample in samples:
            tube, scored = tubes.get(sample.sample_id), by_id.get(sample.sample_id)
            named = (sample.sample_id, sample.video.video_id, sample.qtype, sample.sentence)
            row: list[object] = [in_spreadsheet(x) if isinstance(x, str) else x for x in named]
            row += sample.moment
            row += ["", "", ""] if tube is None else [tube.start, tube.end, "" if tube.score is None else tube.score]
            row += ["", "", ""] if scored is None else [scored.tIoU, scored.vIoU, scored.gt_vIoU]
            row += mark.values()
            writer.writerow(row)
