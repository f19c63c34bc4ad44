"""A file for one's own data, begun from nothing but videos; and what is annotated, drawn into their frames."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stvg.evaluate.picture import GREEN
from stvg.extract.datasets.formats.skeleton import write_skeleton
from stvg.extract.datasets.readers import read_annotations

from .tool_exports import drawn_videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    drawn_videos(folder, 2)
    (folder / "in").mkdir()
    shutil.move(folder / "scene1.mp4", folder / "in/scene 1.MP4")
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_text("no video")
    return folder


def test_a_skeleton_names_every_video_as_it_is_and_check_says_what_is_missing(
    stvg: Any, videos: Path, tmp_path: Path
) -> None:
    ran = stvg("dataset", "new", videos, "--out", tmp_path / "mine")
    assert ran.code == 0, ran.err
    assert "notes.txt" in ran.out
    file = tmp_path / "mine/train.json"
    written = json.loads(file.read_text())
    facts = {"width": 160, "height": 120, "fps": 10, "frame_count": 63}
    assert written["videos"]["scene0"] == {"file": "scene0.mp4", **facts}
    assert written["videos"]["in/scene 1"]["file"] == "in/scene 1.MP4"
    check = ("dataset", "check", "--dataset", "json", "--annotations", tmp_path / "mine", "--videos", videos)
    ran = stvg(*check)
    assert ran.code == 1
    assert ran.out.count("sentence: not a text, or an empty one") == 2
    for sample in written["samples"]:
        sample["sentence"] = "a shape moves"
    file.write_text(json.dumps(written))
    ran = stvg(*check)
    assert ran.out.count("boxes: target 1 has no box") == 2
    assert "list a box at 0 and 62, the moment's ends" in ran.out
    for sample in written["samples"]:
        sample["boxes"] = {str(frame): [10, 10, 50, 50] for frame in (0, sample["moment"][1] - 1)}
    file.write_text(json.dumps(written))
    assert stvg(*check).code == 0
    assert stvg("dataset", "new", videos, "--out", tmp_path / "mine").code == 1
    assert "a shape moves" in file.read_text()


@pytest.mark.parametrize(
    ("split", "complaint"), [("../up", "cannot be the name of a split"), ("", "cannot be the name")]
)
def test_a_split_that_is_no_file_name_is_refused(
    stvg: Any, split: str, complaint: str, videos: Path, tmp_path: Path
) -> None:
    ran = stvg("dataset", "new", videos, "--out", tmp_path / "mine", "--split", split)
    assert ran.code == 1
    assert complaint in ran.err
    assert not (tmp_path / "mine").exists()


def test_a_folder_without_videos_says_what_it_holds_instead(stvg: Any, tmp_path: Path) -> None:
    (tmp_path / "img1").mkdir()
    (tmp_path / "img1/000001.jpg").write_bytes(b"")
    ran = stvg("dataset", "new", tmp_path, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "no video in" in ran.err
    assert "ffmpeg -framerate" in ran.err


def test_a_video_that_cannot_be_read_is_named_and_the_others_are_written(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "v")
    (tmp_path / "v/broken.mp4").write_bytes(b"no video")
    lines, faults = write_skeleton(tmp_path / "v", tmp_path / "out", "train")
    assert len(faults) == 1
    assert "broken.mp4 is not a video" in faults[0]
    assert any("2 videos" in line for line in lines)


@pytest.fixture
def annotated(videos: Path, tmp_path: Path) -> Path:
    write_skeleton(videos, tmp_path, "train")
    written = json.loads((tmp_path / "train.json").read_text())
    for sample in written["samples"]:
        sample |= {"sentence": "a shape moves", "boxes": {"10": [20, 30, 60, 70], "40": [80, 30, 120, 70]}}
        sample["moment"] = [10, 41]
    (tmp_path / "train.json").write_text(json.dumps(written))
    return tmp_path


def test_a_sheet_shows_the_box_in_every_frame_of_the_moment(stvg: Any, annotated: Path, videos: Path) -> None:
    out = annotated / "sheet.png"
    words = ("dataset", "show", "--dataset", "json", "--annotations", annotated, "--videos", videos, "--out", out)
    ran = stvg(*words)
    assert ran.code == 0, ran.err
    assert "2 samples of 2 in split train" in ran.out
    sheet = np.asarray(Image.open(out))
    ran = stvg(*words, "--sample", "scene0/1")
    one = np.asarray(Image.open(out))
    assert np.array_equal(one, sheet[-len(one) :])
    assert len(sheet) == 2 * len(one)
    green = (one == GREEN).all(axis=2)[44:224]  # the frames, 240 x 180 each, 8 pixels apart
    for i, x in enumerate(np.interp(np.linspace(10, 40, 6), [10, 40], [20, 80])):
        rows, columns = np.nonzero(green[:, 8 + 248 * i : 248 * (i + 1)])
        assert abs(columns.min() - 1.5 * x) <= 1
        assert (rows.min(), rows.max()) == (45, 105)


def test_a_sample_that_is_not_there_is_answered_with_the_nearest(stvg: Any, annotated: Path, videos: Path) -> None:
    words = ("dataset", "show", "--dataset", "json", "--annotations", annotated, "--out", annotated / "sheet.png")
    ran = stvg(*words, "--videos", videos, "--sample", "scene0/2")
    assert ran.code == 1
    assert "did you mean 'scene0/1'?" in ran.err
    ran = stvg(*words, "--videos", annotated)
    assert ran.code == 1
    assert "none of the 2 videos is in" in ran.err
    assert not (annotated / "sheet.png").exists()


def test_a_sheet_can_be_drawn_of_every_dataset(stvg: Any, synthetic: Path, tmp_path: Path) -> None:
    words = ("--dataset", "vidstg", "--annotations", synthetic, "--videos", synthetic / "vidor/video", "--count", "1")
    ran = stvg("dataset", "show", *words, "--out", tmp_path / "a.png")
    assert ran.code == 0, ran.err
    assert f"1 sample of {len(read_annotations('vidstg', synthetic, 'train').samples)}" in ran.out
