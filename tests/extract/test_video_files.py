"""Whose file it is: a video's file is the one its record names, and what is called alike is offered."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from stvg.cache.schema import Video
from stvg.errors import UsageError, VideoError
from stvg.extract.datasets.check import check_dataset
from stvg.extract.video.video_files import find_video_files, require_some


def lay(folder: Path, *names: str) -> Path:
    """Files of these names below ``folder``, no two alike."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def files_of(folder: Path, *paths: str, dataset: str = "json") -> list[str | None]:
    """The file of a video of each path, None where there is none."""
    found = find_video_files([Video(f"v{i}", path, 8, 8, 10, 10) for i, path in enumerate(paths)], folder, dataset)
    return [str(f.relative_to(folder)) if isinstance(f, Path) else None for f in found.values()]


def complaint(folder: Path, path: str) -> VideoError:
    error = find_video_files([Video("v", path, 8, 8, 10, 10)], folder)["v"]
    assert isinstance(error, VideoError)
    return error


def test_a_file_of_another_scene_is_never_used(tmp_path: Path) -> None:
    lay(tmp_path, "scene1/front.mp4")
    assert files_of(tmp_path, "scene2/front.mp4", "scene1/front.mp4") == [None, "scene1/front.mp4"]
    assert files_of(tmp_path, "scene2/front.mp4", "day1/scene1/front.mp4") == [None, None]
    assert "scene1/front.mp4" in complaint(tmp_path, "scene2/front.mp4").facts["found"]


def test_a_flat_folder_holds_nobody_elses_record(tmp_path: Path) -> None:
    lay(tmp_path, "front.mp4")
    assert files_of(tmp_path, "scene2/front.mp4") == [None]


def test_a_file_that_one_record_names_is_not_taken_for_another(tmp_path: Path) -> None:
    lay(tmp_path, "scene1/front.mp4", "part/a/side.mp4")
    assert files_of(tmp_path, "front.mp4", "scene1/front.mp4") == [None, "scene1/front.mp4"]
    assert files_of(tmp_path, "side.mp4", "a/side.mp4") == [None, "part/a/side.mp4"]
    assert files_of(tmp_path, "front.mp4", "front.mp4") == ["scene1/front.mp4"] * 2  # one file, two names for it


def test_every_folder_that_a_record_names_may_lie_deeper_or_above(tmp_path: Path) -> None:
    lay(tmp_path, "part1/scene2/front.mp4", "part1/scene1/front.mp4")
    assert files_of(tmp_path, "scene2/front.mp4", "scene1/front.mp4") == [
        "part1/scene2/front.mp4",
        "part1/scene1/front.mp4",
    ]
    assert files_of(tmp_path / "part1" / "scene2", "scene2/front.mp4", "scene1/front.mp4") == ["front.mp4", None]


def test_two_candidates_are_an_error_that_names_both_and_one_file_under_two_names_is_none(tmp_path: Path) -> None:
    lay(tmp_path, "a/x/front.mp4", "b/x/front.mp4", "c/other.mp4")
    with pytest.raises(UsageError, match=r"2 different files are called front\.mp4") as caught:
        files_of(tmp_path, "x/front.mp4")
    assert all(f"{name}/x/front.mp4" in caught.value.facts["found"] for name in "ab")
    (tmp_path / "d").symlink_to(tmp_path / "c")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    assert files_of(tmp_path, "other.mp4") == ["c/other.mp4"]


def test_a_group_folder_of_vidstg_may_be_absent_since_the_id_is_unique(tmp_path: Path) -> None:
    lay(tmp_path, "1000000002.mp4", "1001/1000000003.mp4")
    assert files_of(tmp_path, "1000/1000000002.mp4", dataset="vidstg") == ["1000000002.mp4"]
    assert files_of(tmp_path, "1000/1000000002.mp4") == [None]
    assert files_of(tmp_path, "1001/1000000002.mp4", dataset="vidstg") == [None]


@pytest.mark.parametrize(
    ("recorded", "file"),
    [
        (unicodedata.normalize("NFC", "été/café.mp4"), unicodedata.normalize("NFD", "été/café.mp4")),
        (unicodedata.normalize("NFD", "café.mp4"), unicodedata.normalize("NFC", "café.mp4")),
        ("plain.mp4", "plain.MP4"),
        ("plain.AVI", "part/plain.avi"),
        (r"2024\plain.mp4", "2024/plain.mp4"),
        (r".\2024\sub\plain.mp4", "2024/sub/plain.MP4"),
    ],
)
def test_another_spelling_of_a_name_is_found(tmp_path: Path, recorded: str, file: str) -> None:
    lay(tmp_path, file)
    assert files_of(tmp_path, recorded) == [file]


def test_the_very_name_comes_before_another_spelling_of_it(tmp_path: Path) -> None:
    lay(tmp_path, "a.MP4", "part/a.mp4", "b/c.MP4", "b/c.Mp4")
    assert files_of(tmp_path, "part/a.mp4") == ["part/a.mp4"]
    assert files_of(tmp_path, "a.mp4") == ["a.MP4"]  # at the very place
    with pytest.raises(UsageError, match="2 different files"):
        files_of(tmp_path, "b/c.mp4")


@pytest.mark.parametrize(
    ("recorded", "file"),
    [("47_abc.mkv", "47_abc.mp4"), ("Clip 1.mp4", "clip_1.mp4"), ("x", "x.mp4"), ("café.mp4", "cafe.mp4")],
)
def test_a_name_that_is_nearly_the_same_is_offered(tmp_path: Path, recorded: str, file: str) -> None:
    lay(tmp_path, file, "another.mp4")
    error = complaint(tmp_path, recorded)
    assert error.facts["found"] == file
    assert file in error.facts["hint"]


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "a\0b.mp4", "d/" + "y" * 5000, "loop/loop.mp4"])
def test_a_name_that_no_file_can_have_is_a_missing_video(tmp_path: Path, name: str) -> None:
    lay(tmp_path, "plain.mp4")
    (tmp_path / "loop").symlink_to("loop")
    assert files_of(tmp_path, name, "plain.mp4") == [None, "plain.mp4"]


def test_hidden_files_and_broken_links_are_nobodys_videos(tmp_path: Path) -> None:
    lay(tmp_path, ".trash/a.mp4", "._a.mp4", "sub/._a.mp4")
    (tmp_path / "sub" / "a.mp4").symlink_to(tmp_path / "nowhere")
    assert files_of(tmp_path, "a.mp4") == [None]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_searched(tmp_path: Path, monkeypatch) -> None:
    import os

    lay(tmp_path, "shut/a.mp4", "open/b.mp4")
    scan, status = os.scandir, os.stat

    def refusing(real):
        def call(path, *rest, **named):
            shut = str(path).startswith(str(tmp_path / "shut")) and (
                real is scan or str(path) != str(tmp_path / "shut")
            )
            if shut:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest, **named)

        return call

    monkeypatch.setattr(os, "scandir", refusing(scan))
    monkeypatch.setattr(os, "stat", refusing(status))
    found = find_video_files([Video(n, f"{n}.mp4", 8, 8, 10, 10) for n in "ab"], tmp_path)
    assert found["b"] == tmp_path / "open" / "b.mp4"
    assert f"{tmp_path / 'shut'} cannot be read" in str(found["a"])


def test_a_wrong_folder_is_said_once_with_its_name(tmp_path: Path) -> None:
    lay(tmp_path, "photos/one.jpg")
    videos = {f"v{i}": {"file": f"v{i}.mp4", "width": 8, "height": 8, "fps": 10, "frame_count": 10} for i in range(9)}
    boxes = {str(frame): [1, 1, 5, 5] for frame in range(10)}
    samples = [{"id": v, "video": v, "sentence": "it moves", "moment": [0, 10], "boxes": boxes} for v in videos]
    (tmp_path / "train.json").write_text(json.dumps({"videos": videos, "samples": samples}))
    report = check_dataset("json", tmp_path, videos=tmp_path / "photos")
    (fault,) = report.faults
    assert f"none of the 9 videos is in {tmp_path / 'photos'}" in str(fault)
    assert "one.jpg" in str(fault)
    assert report.videos_opened == 0


def test_one_video_that_is_there_makes_a_folder_the_right_one(tmp_path: Path) -> None:
    require_some({}, tmp_path)
    require_some({"a": tmp_path / "a.mp4", "b": VideoError("b.mp4 is not in the folder of videos")}, tmp_path)
    missing = {name: VideoError(f"{name}.mp4 is not in the folder of videos", video=name) for name in "ab"}
    require_some({"a": missing["a"]}, tmp_path)  # a single one is listed like any other
    with pytest.raises(UsageError, match=f"none of the 2 videos is in {tmp_path}"):
        require_some(missing, tmp_path)
