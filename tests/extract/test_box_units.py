"""Boxes that are no pixels, or another form of box, are doubted; ordinary ones are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from stvg.cache.schema import Sample, Video
from stvg.extract.datasets.box_units import BoxUnits
from stvg.extract.datasets.readers import read_annotations

WIDTH, HEIGHT = 640, 360


def tracks(count: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Objects of nearly the same size that walk through the picture: corners (40, 4) in pixels."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size = rng.uniform([40, 60], [120, 150]) * np.linspace(1, rng.uniform(0.8, 1.25), 40)[:, None]
        start, end = rng.uniform([0, 0], [WIDTH - 160, HEIGHT - 200], (2, 2))
        corner = start + np.linspace(0, 1, 40)[:, None] * (end - start)
        made.append(np.concatenate([corner, corner + size], axis=1))
    return made


def doubts(boxes: list[np.ndarray], sized: bool = False, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    units = BoxUnits(sized)
    for i, rows in enumerate(boxes):
        video = Video(f"v{i}", f"v{i}.mp4", width, height, 10, 100)
        units.add(Sample(i, video, "it moves", "all", "train", (0, 100), (0, len(rows)), rows))
    return list(units.doubts())


def as_sizes(rows: np.ndarray) -> np.ndarray:
    """Corners as x, y, width, height."""
    return np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1)


PICTURE = np.array([WIDTH, HEIGHT] * 2)


@pytest.mark.parametrize(
    ("scale", "word"), [(1, "fractions"), (100, "percentages"), (1000, "thousandths")], ids=lambda x: str(x)
)
def test_boxes_in_parts_of_the_picture_are_doubted(scale: int, word: str) -> None:
    (said,) = doubts([scale * rows / PICTURE for rows in tracks()])
    assert word in said


def test_sizes_that_are_read_as_corners_are_doubted_and_corners_that_are_read_as_sizes() -> None:
    (said,) = doubts([as_sizes(rows) for rows in tracks()])
    assert "fit better as [x, y, width, height]" in said
    (said,) = doubts(
        [np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1) for rows in tracks()], sized=True
    )
    assert "fit better as [x1, y1, x2, y2]" in said


@pytest.mark.parametrize("seed", range(10))
def test_pixels_are_not_doubted(seed: int) -> None:
    for sized in (False, True):
        assert not doubts(tracks(seed=seed), sized)
        assert not doubts(tracks(1, seed), sized)


def test_small_objects_in_a_corner_are_not_doubted() -> None:
    assert not doubts([np.tile([20.0, 20, 60, 60], (40, 1))])
    assert not doubts([np.array([5.0, 5, 30, 30]) + np.arange(20)[:, None]])
    assert not doubts([np.array([5.0, 5, 30, 30])[None]], width=100, height=80)


def test_an_object_that_leaves_the_picture_or_comes_nearer_is_not_doubted() -> None:
    near = np.arange(40.0)[:, None] * [-3, -2, 3, 2] + [300, 150, 340, 200]
    leaving = np.stack([400 + 5.0 * np.arange(40), np.full(40, 99.0), np.full(40, 640.0), np.full(40, 300.0)], axis=1)
    assert not doubts([near])
    assert not doubts([leaving])


def test_real_boxes_are_not_doubted(shared: Path) -> None:
    real = shared / "real"
    for dataset, folder, split in (
        ("vidstg", "vidstg_vidor", "val"),
        ("vidstg", "vidstg_tracks", "train"),
        ("hcstvg-v1", "hcstvg", "train"),
        ("hcstvg-v2", "hcstvg", "val"),
        ("json", "mini/annotations.json", "annotations"),
    ):
        assert not read_annotations(dataset, real / folder, split, on_bad_record="skip").doubts


def test_a_box_without_area_is_answered_with_what_it_looks_like(tmp_path: Path) -> None:
    from stvg.errors import AnnotationError

    video = {"file": "a.mp4", "width": WIDTH, "height": HEIGHT, "fps": 10, "frame_count": 100}
    sample = {"id": 1, "video": "a", "sentence": "it moves", "moment": [0, 40], "interpolate": True}
    for boxes, word in (([300, 100, 50, 80], "[x, y, width, height]"), ([0.5, 0.5, 0.1, 0.2], "fractions")):
        content = {"videos": {"a": video}, "samples": [{**sample, "boxes": {"0": boxes, "39": boxes}}]}
        (tmp_path / "train.json").write_text(json.dumps(content))
        with pytest.raises(AnnotationError, match="without area") as caught:
            read_annotations("json", tmp_path, "train")
        assert word in caught.value.facts["hint"]


def test_dataset_check_and_extract_both_say_it(tmp_path: Path, caplog) -> None:
    import torch

    from stvg.cache.sampling import Sampling
    from stvg.extract.datasets.check import check_dataset
    from stvg.extract.job import ExtractJob, prepare

    video = {"file": "a.mp4", "width": WIDTH, "height": HEIGHT, "fps": 10, "frame_count": 100}
    boxes = {str(frame): [0.1, 0.1, 0.2, 0.3] for frame in range(40)}
    sample = {"id": 1, "video": "a", "sentence": "it moves", "moment": [0, 40], "boxes": boxes}
    (tmp_path / "train.json").write_text(json.dumps({"videos": {"a": video}, "samples": [sample]}))
    (tmp_path / "videos").mkdir()
    assert any("fractions" in warning for warning in check_dataset("json", tmp_path).warnings)
    job = ExtractJob(
        dataset="json",
        annotations=tmp_path,
        out=tmp_path / "c",
        sampling=Sampling(),
        device=torch.device("cpu"),
        backbone="tiny",
        resolution=96,
    )
    with caplog.at_level(logging.WARNING):
        prepare(job)
    assert "train: all boxes (40) lie within 0 and 1" in caplog.text
