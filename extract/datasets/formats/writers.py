"""Boxes as files of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....atomic import make_folder, unit_name, write_atomic
from ....errors import UsageError
from .presence import DECIMALS
from .videos import stem_of

if TYPE_CHECKING:
    from .exporting import ExportedVideo


def write_mot(out: Path, videos: Sequence[ExportedVideo]) -> Path:
    """MOTChallenge: ``out``/SEQUENCE/gt/gt.txt and seqinfo.ini; frames, objects and pixels count from 1."""
    for video in videos:
        name = stem_of(video.video.path)
        folder = out / unit_name(name)
        lines = [
            (frame + 1, number, *(round(float(v), DECIMALS) for v in (x1 + 1, y1 + 1, x2 - x1, y2 - y1)), 1, 1, 1)
            for number, boxes in enumerate(video.targets.values(), start=1)
            for frame, (x1, y1, x2, y2) in boxes.items()
        ]
        make_folder(folder / "gt")
        write_atomic(folder / "gt/gt.txt", "".join(",".join(map(str, line)) + "\n" for line in sorted(lines)))
        facts = {
            "name": name if name.isprintable() else unit_name(name),
            "imDir": "img1",
            "frameRate": f"{video.video.fps:g}",
            "seqLength": video.video.frame_count,
            "imWidth": video.video.width,
            "imHeight": video.video.height,
            "imExt": ".jpg",
        }
        info = "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in facts.items())
        write_atomic(folder / "seqinfo.ini", info)
    return out


def write_coco_vid(out: Path, videos: Sequence[ExportedVideo]) -> Path:
    """CocoVID: ``out``/annotations.json, with an image for every frame and an annotation for every box; frames count
    from 0."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    listed = []
    for key, video in enumerate(videos, start=1):
        facts, first = video.video, len(images)
        size = {"width": facts.width, "height": facts.height}
        listed.append({"id": key, "name": stem_of(facts.path), "file_name": facts.path, **size, "fps": facts.fps})
        images += [
            {
                "id": first + frame,
                "video_id": key,
                "frame_id": frame,
                "file_name": f"{stem_of(facts.path)}/{frame + 1:06d}.jpg",
                **size,
            }
            for frame in range(facts.frame_count)
        ]
        for number, boxes in enumerate(video.targets.values(), start=1):
            for frame, (x1, y1, x2, y2) in boxes.items():
                sides = [round(float(v), DECIMALS) for v in (x1, y1, x2 - x1, y2 - y1)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": first + frame,
                        "video_id": key,
                        "category_id": 1,
                        "instance_id": number,
                        "bbox": sides,
                        "area": round(sides[2] * sides[3], DECIMALS),
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": 1, "name": "target"}]
    content = {"videos": listed, "images": images, "annotations": annotations, "categories": categories}
    file = out / "annotations.json"
    if file.exists():
        raise UsageError(f"{file} is there already", effect="nothing was written", hint="choose another --out")
    make_folder(out)
    write_atomic(file, json.dumps(content, ensure_ascii=False) + "\n")
    return file
