"""Small drawn videos with exact boxes, and their annotations as other tools export them; objects count from 1."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stvg.extract.synthetic.dataset import make_scene
from stvg.extract.synthetic.drawing import draw, write_video
from stvg.extract.synthetic.scenes import Scene, SyntheticConfig

FPS = 10
COLUMNS = ("video", "track", "sentence", "start", "end", "split")


@dataclass(frozen=True)
class Drawn:
    """A video, and what is said about it: (object, sentence, begin, end) each."""

    name: str
    scene: Scene
    told: list[tuple[int, str, int, int]]


def drawn_videos(folder: Path, count: int = 3) -> list[Drawn]:
    """Write ``folder``/0.mp4 and on; the last one is for a split test."""
    config, found = SyntheticConfig(fps=FPS), []
    for number in range(count):
        scene, records = make_scene(np.random.SeedSequence(11, spawn_key=(number,)), config)
        told = [(r.caption.target, r.caption.text, r.event.start, r.event.end) for r in records]
        write_video(folder / f"scene{number}.mp4", draw(scene), Fraction(FPS))
        found.append(Drawn(f"scene{number}", scene, told))
    return found


def write_sentences(file: Path, drawn: Iterable[Drawn]) -> Path:
    """The table of sentences; the last video is of split test."""
    drawn = list(drawn)
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(COLUMNS)
        for d in drawn:
            split = "test" if d is drawn[-1] else "train"
            rows.writerows([d.name, t + 1, s, b, e, split] for t, s, b, e in d.told)
    return file


def write_mot(folder: Path, drawn: Iterable[Drawn]) -> Path:
    """As MOTChallenge has it: frames, objects and pixels count from 1."""
    for d in drawn:
        gt = folder / d.name / "gt"
        gt.mkdir(parents=True)
        lines = []
        for tid, thing in enumerate(d.scene.things):
            for frame, (x1, y1, x2, y2) in enumerate(thing.boxes.tolist()):
                lines.append(f"{frame + 1},{tid + 1},{x1 + 1},{y1 + 1},{x2 - x1},{y2 - y1},1,1,1.0")
        (gt / "gt.txt").write_text("\n".join(lines) + "\n")
        (folder / d.name / "seqinfo.ini").write_text(
            f"[Sequence]\nname={d.name}\nimDir=img1\nframeRate={FPS}\nseqLength={d.scene.frame_count}\n"
            f"imWidth={d.scene.width}\nimHeight={d.scene.height}\nimExt=.jpg\n"
        )
    return folder


def _videos(drawn: list[Drawn]) -> list[dict[str, Any]]:
    return [
        {"id": i, "name": d.name, "width": d.scene.width, "height": d.scene.height, "length": d.scene.frame_count}
        for i, d in enumerate(drawn, 1)
    ]


def _sized(box: Iterable[int]) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def write_coco(file: Path, drawn: Iterable[Drawn], first: int = 0) -> Path:
    """CocoVID: an annotation a box; frames count from ``first``."""
    drawn = list(drawn)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, d in enumerate(drawn, 1):
        for frame in range(d.scene.frame_count):
            images.append({"id": len(images), "video_id": i, "frame_id": frame + first, "file_name": f"{frame}.jpg"})
            annotations += [
                {
                    "id": len(annotations) + t,
                    "image_id": len(images) - 1,
                    "instance_id": t + 1,
                    "category_id": 1,
                    "bbox": _sized(thing.boxes[frame].tolist()),
                }
                for t, thing in enumerate(d.scene.things)
            ]
    categories = [{"id": 1, "name": "shape"}]
    content = {"videos": _videos(drawn), "images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return file


def write_youtube_vis(file: Path, drawn: Iterable[Drawn]) -> Path:
    """YouTube-VIS: an annotation an object."""
    drawn = list(drawn)
    annotations = [
        {"id": 100 * i + t, "track_id": t + 1, "video_id": i, "bboxes": [_sized(b) for b in thing.boxes.tolist()]}
        for i, d in enumerate(drawn, 1)
        for t, thing in enumerate(d.scene.things)
    ]
    file.write_text(json.dumps({"videos": _videos(drawn), "annotations": annotations, "categories": []}))
    return file


def write_box_table(file: Path, drawn: Iterable[Drawn]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(("video", "track", "frame", "x1", "y1", "x2", "y2"))
        for d in drawn:
            for t, thing in enumerate(d.scene.things):
                rows.writerows([d.name, t + 1, frame, *box] for frame, box in enumerate(thing.boxes.tolist()))
    return file


def write_cvat(folder: Path, drawn: Iterable[Drawn]) -> Path:
    """CVAT for video 1.1: a file for each task, a box for every frame, the task's video as its source."""
    for d in drawn:
        tracks = ""
        for t, thing in enumerate(d.scene.things):
            boxes = ""
            for frame, (x1, y1, x2, y2) in enumerate(thing.boxes.tolist()):
                sides = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"'
                key = int(frame % 5 == 0)
                boxes += f'<box frame="{frame}" keyframe="{key}" outside="0" occluded="0" {sides} z_order="0"></box>\n'
            tracks += f'<track id="{t + 1}" label="{thing.shape}" source="manual">\n{boxes}</track>\n'
        size = f"<original_size><width>{d.scene.width}</width><height>{d.scene.height}</height></original_size>"
        last, label = d.scene.frame_count - 1, "<labels><label><name>circle</name></label></labels>"
        frames = f"<size>{last + 1}</size><start_frame>0</start_frame><stop_frame>{last}</stop_frame>"
        task = f"<task><id>7</id><name>a task</name>{frames}{label}{size}<source>{d.name}.mp4</source></task>"
        (folder / d.name).mkdir(parents=True)
        text = (
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta>{task}</meta>\n{tracks}'
        )
        (folder / d.name / "annotations.xml").write_text(f"{text}</annotations>\n", encoding="utf-8")
    return folder


def write_label_studio(file: Path, drawn: Iterable[Drawn]) -> Path:
    """Label Studio's JSON: a key frame for every frame, counted from 1, in percent."""
    tasks = []
    for number, d in enumerate(drawn, 1):
        scale = np.array([d.scene.width, d.scene.height] * 2) / 100
        regions = []
        for t, thing in enumerate(d.scene.things):
            sequence = [
                {
                    "frame": f,
                    "enabled": True,
                    "rotation": 0,
                    **dict(zip(("x", "y", "width", "height"), sides, strict=True)),
                }
                for f, sides in enumerate((np.array([*map(_sized, thing.boxes.tolist())]) / scale).tolist(), 1)
            ]
            value = {"framesCount": d.scene.frame_count, "duration": d.scene.frame_count / FPS, "sequence": sequence}
            regions.append({"id": str(t + 1), "type": "videorectangle", "value": {**value, "labels": [thing.shape]}})
        data = {"video": f"/data/upload/1/0a1b2c3d-{d.name}.mp4"}
        tasks.append({"id": number, "data": data, "annotations": [{"id": number, "result": regions}]})
    file.write_text(json.dumps(tasks))
    return file
