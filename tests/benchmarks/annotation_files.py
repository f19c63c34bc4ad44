"""Annotations of the plain JSON format, written from samples, so that tests can change them one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stvg.cache.schema import Sample


def write_json(folder: Path, samples: Sequence[Sample], split: str = "train", **layout: object) -> Path:
    """``folder``/``split``.json; ``layout``: how `json.dumps` renders it. Returns the folder."""
    videos = {s.video.video_id: s.video for s in samples}
    content = {
        "videos": {
            v.video_id: {
                "file": v.path,
                "width": v.width,
                "height": v.height,
                "fps": v.fps,
                "frame_count": v.frame_count,
            }
            for v in videos.values()
        },
        "samples": [record(s) for s in samples],
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.json").write_text(json.dumps(content, **layout), encoding="utf-8")
    return folder


def record(sample: Sample) -> dict[str, object]:
    numbers = range(sample.moment[0], sample.moment[0] + len(sample.boxes))
    return {
        "id": sample.sample_id,
        "video": sample.video.video_id,
        "sentence": sample.sentence,
        "moment": sample.moment,
        "segment": sample.segment,
        "target": sample.target_id,
        "boxes": {str(n): box.tolist() for n, box in zip(numbers, sample.boxes, strict=True) if np.isfinite(box).all()},
    }


def inside(sample: Sample) -> Sample:
    """The same sample with a moment that ends in its segment; VidSTG's may end one frame after it."""
    start, end = sample.moment[0], min(sample.moment[1], sample.segment[1])
    return replace(sample, moment=(start, end), boxes=sample.boxes[: end - start])


def moved(sample: Sample, by: float = 1.5) -> Sample:
    """The same sample of another target: every box a little to the right."""
    shift = np.array([by, 0, by, 0])
    name = f"{sample.sample_id} moved"
    return replace(sample, sample_id=name, target_id=name, boxes=sample.boxes + shift)
