"""Synthetic grounding datasets in the layouts of VidSTG with VidOR and of HC-STVG: videos, boxes and sentences.

They serve the demo, the tests, and as a benchmark with exactly known answers. A dataset depends on its settings only:
each video has its own random seed, derived from the dataset's, so the order of making them does not matter. Writing
into a folder that already holds the same dataset makes it again. Annotations are written last, after their videos. A
folder with any other content is refused, and so is a changed annotation file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import make_folder, write_atomic
from ...errors import UsageError
from ..datasets.table import find
from .drawing import draw, write_video
from .planning import plan_scene
from .scenes import Event, Scene, SyntheticConfig, Thing
from .sentences import RECORDS, Sentence, ToldEvent, tell

Progress = Callable[[int, int], None]
"""Called with (videos done, videos in all)."""

SPLITS = ("train", "val", "test")
VIDOR_FOLDER = {"train": "training", "val": "training", "test": "validation"}
RECORD = ".synthetic.json"
"""File with the settings of the dataset in a folder. It is hidden, so that it is not read as a split."""
GROUP = 500
"""Videos in one VidOR group or HC-STVG part."""
CLIP_SECONDS = 20


def make_scene(seed: np.random.SeedSequence, config: SyntheticConfig) -> tuple[Scene, tuple[ToldEvent, ...]]:
    """Plan one video and its sentences, without drawing. Equal seeds and settings give equal results."""
    rng = np.random.default_rng(seed)
    while True:
        scene = plan_scene(rng, config)
        if len(records := tell(rng, scene, config.paraphrase)) == RECORDS:
            return scene, records


def scene_seed(config: SyntheticConfig, split: str, index: int) -> np.random.SeedSequence:
    """The random seed of video ``index`` of a split; it does not depend on the split sizes."""
    return np.random.SeedSequence(config.seed, spawn_key=(SPLITS.index(split), index))


def write_vidstg(folder: Path, config: SyntheticConfig, progress: Progress | None = None) -> None:
    """Write ``folder``/annotations and ``folder``/vidor: splits train, val and test, several sentences per video."""
    _claim(folder, "vidstg", config)
    made = _make(_make_vidstg, folder, config, SPLITS, progress)
    for split, videos in made.items():
        records = [record for _, found in videos for record in found]
        _write_json(folder / "annotations" / f"{split}_annotations.json", records)
        _write_json(folder / "annotations" / f"{split}_files.json", [name for name, _ in videos])


def write_hcstvg(folder: Path, config: SyntheticConfig, progress: Progress | None = None, version: int = 1) -> None:
    """Write ``folder``/annotations and ``folder``/videos: one declarative sentence per video.

    ``version`` 1 has the splits train and test, 2 has train and val. Clips last 20 s, so they have at least 100 frames.
    """
    if version not in (1, 2):
        raise UsageError("HC-STVG has no such version", expected="1 or 2", found=version)
    fewest, most = config.frames
    config = replace(config, frames=(max(100, fewest), max(120, most)))
    _claim(folder, f"hcstvg-v{version}", config)
    made = _make(_make_hcstvg, folder, config, ("train", "test") if version == 1 else ("train", "val"), progress)
    for split, videos in made.items():
        if version == 2:
            videos = [(name, _as_version_2(record)) for name, record in videos]
        name = f"{split}.json" if version == 1 else f"{split}_v2.json"
        _write_json(folder / "annotations" / name, dict(videos))


write_hcstvg_2 = partial(write_hcstvg, version=2)


@dataclass(frozen=True)
class _Task:
    folder: Path
    config: SyntheticConfig
    split: str
    index: int

    def scene(self) -> tuple[Scene, tuple[ToldEvent, ...]]:
        return make_scene(scene_seed(self.config, self.split, self.index), self.config)


def _make(
    make: Callable[[_Task], tuple[str, Any]],
    folder: Path,
    config: SyntheticConfig,
    splits: tuple[str, ...],
    progress: Progress | None,
) -> dict[str, list[tuple[str, Any]]]:
    """Make all videos, in ``config.jobs`` processes. Returns, per split, (name, annotation) of each video in order."""
    tasks = [_Task(folder, config, split, i) for split in splits for i in range(getattr(config, split))]
    made: dict[str, list[tuple[str, Any]]] = {split: [] for split in splits}

    def collect(results: Iterator[tuple[str, Any]]) -> None:
        for done, (task, result) in enumerate(zip(tasks, results, strict=True), 1):
            made[task.split].append(result)
            if progress is not None:
                progress(done, len(tasks))

    if config.jobs == 1:
        collect(map(make, tasks))
    else:
        with ProcessPoolExecutor(config.jobs, mp_context=get_context("spawn")) as pool:
            collect(pool.map(make, tasks, chunksize=4))
    return made


def _make_vidstg(task: _Task) -> tuple[str, list[dict[str, Any]]]:
    """Write one video and its VidOR boxes; returns its id and its VidSTG records."""
    scene, told = task.scene()
    number = SPLITS.index(task.split)
    vid, group = f"{number + 1}{task.index:09d}", f"{number + 1}{task.index // GROUP:03d}"
    common = {
        "fps": task.config.fps,
        "frame_count": scene.frame_count,
        "width": scene.width,
        "height": scene.height,
        "subject/objects": [{"tid": tid, "category": thing.shape} for tid, thing in enumerate(scene.things)],
    }
    rate = Fraction(task.config.fps).limit_denominator(1001)
    write_video(task.folder / "vidor/video" / group / f"{vid}.mp4", draw(scene), rate)
    vidor = {
        "version": "VERSION 1.0",
        "video_id": vid,
        "video_hash": "",
        "video_path": f"{group}/{vid}.mp4",
        **common,
        "trajectories": _trajectories(scene.things),
        "relation_instances": [_relation(scene, event) for event in scene.events if not event.passing],
    }
    _write_json(task.folder / "vidor/annotation" / VIDOR_FOLDER[task.split] / group / f"{vid}.json", vidor)
    records = []
    for record in told:
        relation = _relation(scene, record.event)
        records.append(
            {
                "vid": vid,
                **common,
                # The last frame number, as in the real data, although readers take it as exclusive.
                "used_segment": {"begin_fid": 0, "end_fid": scene.frame_count - 1},
                "used_relation": relation,
                "temporal_gt": {"begin_fid": relation["begin_fid"], "end_fid": relation["end_fid"]},
                "captions": [_sentence(record.caption)],
                "questions": [_sentence(question) for question in record.questions],
            }
        )
    return vid, records


def _relation(scene: Scene, event: Event) -> dict[str, Any]:
    """The VidSTG relation of an event. An event without a partner is written as a relation to the next object."""
    other = event.other if event.other is not None else (event.subject + 1) % len(scene.things)
    return {
        "subject_tid": event.subject,
        "object_tid": other,
        "predicate": event.predicate,
        "begin_fid": event.start,
        "end_fid": event.end,
    }


def _sentence(sentence: Sentence) -> dict[str, Any]:
    return {"description": sentence.text, "type": "object", "target_id": sentence.target}


def _trajectories(things: tuple[Thing, ...]) -> list[list[dict[str, Any]]]:
    corners = ("xmin", "ymin", "xmax", "ymax")
    frames = np.stack([thing.boxes for thing in things], axis=1).tolist()  # frames, things, 4
    return [
        [
            {"tid": tid, "bbox": dict(zip(corners, box, strict=True)), "generated": 0, "tracker": "none"}
            for tid, box in enumerate(boxes)
        ]
        for boxes in frames
    ]


def _make_hcstvg(task: _Task) -> tuple[str, dict[str, Any]]:
    """Write one video; returns its file name and its version 1 record."""
    scene, told = task.scene()
    name, part = f"{task.index + 1}_synthetic_{task.split}.mp4", f"{task.split}_{task.index // GROUP}"
    rate = Fraction(scene.frame_count, CLIP_SECONDS)
    write_video(task.folder / "videos" / part / name, draw(scene), rate)
    event, caption = told[0].event, told[0].caption
    boxes = scene.things[caption.target].boxes[event.start : event.end]
    return name, {
        "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist(),
        "st_time": float(event.start / rate),
        "ed_time": float(event.end / rate),
        "img_num": scene.frame_count,
        "caption": caption.text,
        "width": scene.width,
        "height": scene.height,
        "st_frame": event.start + 1,  # counted from 1
    }


def _as_version_2(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: record[key] for key in ("bbox", "st_time", "ed_time", "img_num", "st_frame")}
    return {**kept, "English": record["caption"], "img_size": [record["height"], record["width"]]}


def _claim(folder: Path, kind: str, config: SyntheticConfig) -> None:
    """Create the folder and record the settings in it. Raises UsageError if it has other content."""
    settings = {name: value for name, value in asdict(config).items() if name != "jobs"}  # without effect on the result
    wanted = json.dumps({"format": kind, **settings})
    record = folder / RECORD
    try:
        if record.is_file():
            own, holds = record.read_bytes() == wanted.encode(), "a synthetic dataset with other settings"
        else:
            entries = folder.iterdir() if folder.exists() else ()
            own, holds = all(entry.name.startswith(".") for entry in entries), "something else"
        if own:
            make_folder(folder)
            write_atomic(record, wanted)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written", found=error.strerror, effect="nothing was written") from None
    if not own:
        raise UsageError(f"{folder} holds {holds}", effect="nothing was written", hint="choose another folder")


def _write_json(path: Path, content: object) -> None:
    """Write an annotation file. Raises UsageError if the file exists with other content."""
    text = json.dumps(content)
    make_folder(path.parent)
    if not path.exists():
        write_atomic(path, text)
    elif path.read_bytes() != text.encode():
        raise UsageError(
            f"{path} was changed after it was written",
            effect="the file was not changed now",
            hint="choose another folder, or remove the file",
        )


def make_dataset(folder: Path, kind: str, videos: int, seed: int, jobs: int, progress: Progress | None = None) -> None:
    """Write a synthetic dataset in a real one's format: ``videos`` for training, an eighth of that per other split."""
    held_out = max(1, videos // 8)
    config = SyntheticConfig(train=videos, val=held_out, test=held_out, seed=seed, jobs=jobs)
    find(kind).draw(folder, config, progress)
