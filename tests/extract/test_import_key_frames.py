"""CVAT and Label Studio list key frames: where a box begins, how it moves between them, and when the object is gone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stvg.cache.schema import Video
from stvg.errors import AnnotationError, UsageError
from stvg.extract.datasets.formats.model import Source
from stvg.extract.datasets.formats.presence import Presence, is_renumbered, presence_of
from stvg.extract.datasets.formats.table import FORMATS
from stvg.extract.video.clock import Clock

VIDEO = Video("street", "street.mp4", 200, 100, 10.0, 60)


def presences(source: Source, clock: Clock | None = None) -> list[Presence]:
    clock = clock or Clock.steady(VIDEO.frame_count, VIDEO.fps)
    return [presence_of(track, source.clips[track.clip], VIDEO, clock) for track in source.tracks]


def spans(source: Source, clock: Clock | None = None) -> list[list[tuple[int, int]]]:
    return [[run.span for run in there.runs] for there in presences(source, clock)]


def boxes_at(there: Presence, frame: int) -> list[float]:
    (run,) = [run for run in there.runs if run.span[0] <= frame < run.span[1]]
    return [float(np.interp(frame, run.frames, run.boxes[:, i])) for i in range(4)]


def box(frame: int, outside: int = 0, x: float = 10, more: str = "") -> str:
    sides = f'xtl="{x}" ytl="20" xbr="{x + 30}" ybr="50"'
    return f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" {sides} {more}/>'


TASK = "<task><id>3</id><name>my task</name>{}</task><source>street.mp4</source>"
SIZE = "<original_size><width>200</width><height>100</height></original_size>"


def cvat(folder: Path, tracks: str, meta: str = TASK.format("<stop_frame>59</stop_frame>") + SIZE) -> Source:
    text = f"<?xml version='1.0'?><annotations><version>1.1</version><meta>{meta}</meta>{tracks}</annotations>"
    (folder / "annotations.xml").write_text(text, encoding="utf-8")
    return FORMATS["cvat"].read(folder / "annotations.xml")


def track(*boxes: str, more: str = "") -> str:
    return f'<track id="0" label="car" {more}>{"".join(boxes)}</track>'


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([box(5), box(15), box(20, 1)], [(5, 20)]),
        ([box(5), box(6, 1), box(30), box(40, 1)], [(5, 6), (30, 40)]),
        ([box(5, 1), box(9), box(12, 1), box(13, 1)], [(9, 12)]),
        ([box(50)], [(50, 60)]),
        ([box(0), box(59)], [(0, 60)]),
        ([box(9), box(5), box(12, 1)], [(5, 12)]),
    ],
)
def test_a_cvat_track_lasts_until_it_is_outside_or_the_task_ends(
    boxes: list[str], expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert spans(cvat(tmp_path, track(*boxes))) == [expected]


def test_cvat_boxes_lie_on_straight_lines_and_stay_before_the_object_is_gone(tmp_path: Path) -> None:
    (there,) = presences(cvat(tmp_path, track(box(0, x=0), box(10, x=20), box(20, 1, x=90))))
    assert boxes_at(there, 5) == [10, 20, 40, 50]
    assert boxes_at(there, 19) == boxes_at(there, 10) == [20, 20, 50, 50]


def test_a_turned_box_becomes_the_upright_one_around_it(tmp_path: Path) -> None:
    (there,) = presences(cvat(tmp_path, track(box(0, more='rotation="90"'), box(1, 1))))
    assert boxes_at(there, 0) == [10, 20, 40, 50]
    tall = box(0, more='rotation="90.0"').replace('ybr="50"', 'ybr="80"')
    (there,) = presences(cvat(tmp_path, track(tall, box(1, 1))))
    assert boxes_at(there, 0) == [-5, 35, 55, 65]


def test_a_cvat_project_says_which_task_a_track_is_of(tmp_path: Path) -> None:
    tasks = "".join(
        f"<task><id>{n}</id><name>t{n}</name><source>{n}.mp4</source><labels><label><name>car</name></label></labels>"
        "</task>"
        for n in (4, 5)
    )
    meta = f"<project><id>1</id><name>p</name><tasks>{tasks}</tasks></project>"
    source = cvat(tmp_path, track(box(0), box(3, 1), more='task_id="5"'), meta)
    assert [t.clip for t in source.tracks] == ["5.mp4"]
    assert list(source.clips) == ["4.mp4", "5.mp4"]
    with pytest.raises(AnnotationError, match="no such task"):
        cvat(tmp_path, track(box(0)), meta)


def test_a_cvat_job_without_a_source_is_called_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "street").mkdir()
    meta = f"<job><id>9</id><size>10</size><start_frame>0</start_frame><stop_frame>9</stop_frame></job>{SIZE}"
    source = cvat(tmp_path / "street", track(box(0)), meta)
    assert source.clips["street"].size == (200, 100)
    assert spans(source) == [[(0, 10)]]


def test_an_attribute_of_a_cvat_track_can_be_its_sentence(tmp_path: Path) -> None:
    said = box(0).replace("/>", '><attribute name="Caption"> a car\n turns </attribute></box>')
    (found,) = cvat(tmp_path, track(said, box(9, 1))).tracks
    assert (found.sentence, found.label) == ("a car turns", "car")


def test_cvat_shapes_that_are_no_boxes_of_tracks_are_counted(tmp_path: Path) -> None:
    other = '<track id="1" label="x"><polygon frame="0" outside="0" points="1,1;2,2;3,1"/></track>'
    still = f'<image id="0" name="a.png">{box(0)}</image>'
    source = cvat(tmp_path, track(box(0)) + other + still)
    assert source.left_out == {
        "shapes of kind polygon": 1,
        "tracks without a box": 1,
        "boxes of single images, which are of no track": 1,
    }
    with pytest.raises(UsageError, match="boxes of single images alone"):
        cvat(tmp_path, still)


FAULTS = [
    (box(0).replace('frame="0"', 'frame="x"'), "line 1, track 0, frame: not a number"),
    (box(0).replace('frame="0"', 'frame="1.5"'), "frame: not a frame number"),
    (box(0).replace('frame="0"', 'frame="-1"'), "frame: not a frame number"),
    (box(0).replace('xtl="10"', ""), "xtl: not a number"),
    (box(0).replace('xtl="10"', 'xtl="nan"'), "xtl: not a number"),
    (box(0).replace('xtl="10"', 'xtl="1e99"'), "xtl: not a number"),
    (box(0, 2), "outside: neither 0 nor 1"),
    (box(0) + box(0), "frame 0 (counted from 0) occurs twice"),
    ("<box", "not CVAT's XML: "),
]


@pytest.mark.parametrize(("boxes", "complaint"), FAULTS)
def test_a_faulty_cvat_box_is_named(boxes: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as raised:
        cvat(tmp_path, track(boxes))
    assert complaint in str(raised.value)
    assert "annotations.xml" in str(raised.value)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'


@pytest.mark.parametrize("start", [BOMB, '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "<!DOCTYPE a>"])
def test_definitions_in_an_xml_file_are_refused(start: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(f"{start}<annotations><meta/>&c;</annotations>")
    with pytest.raises(AnnotationError, match="a document type"):
        FORMATS["cvat"].read(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "content", [b"", b"no xml", b"<a/>", b"<annotations><meta>", b"PK\x03\x04", b"\x1f\x8bno gzip"]
)
def test_what_is_no_cvat_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        FORMATS["cvat"].read(tmp_path / "a.xml")


def test_a_gzipped_file_is_read(tmp_path: Path) -> None:
    cvat(tmp_path, track(box(0), box(9, 1)))
    (tmp_path / "b.xml.gz").write_bytes(gzip.compress((tmp_path / "annotations.xml").read_bytes()))
    assert spans(FORMATS["cvat"].read(tmp_path / "b.xml.gz")) == [[(0, 9)]]


# --- Label Studio -----------------------------------------------------------------------------------------------------


def key(frame: int, enabled: bool = True, x: float = 10, **more: Any) -> dict[str, Any]:
    return {"frame": frame, "enabled": enabled, "x": x, "y": 20, "width": 10, "height": 30, "rotation": 0, **more}


def label_studio(folder: Path, *sequence: dict[str, Any], video: str = "street.mp4", **value: Any) -> Source:
    known = {"framesCount": 60, "duration": 6, "sequence": list(sequence), "labels": ["dog"], **value}
    region = {"id": "tJhY", "type": "videorectangle", "value": known, "meta": {"text": ["a dog runs"]}}
    task = {"id": 1, "data": {"video": video}, "annotations": [{"result": [region]}], "predictions": []}
    (folder / "export.json").write_text(json.dumps([task]))
    return FORMATS["label-studio"].read(folder / "export.json")


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([key(1), key(5, False)], [(0, 5)]),
        ([key(1)], [(0, 60)]),
        ([key(1, False)], [(0, 1)]),
        ([key(1), key(5, False), key(11), key(15, False)], [(0, 5), (10, 15)]),
        ([key(2), key(10, False), key(13, False), key(16)], [(1, 10), (12, 13), (15, 60)]),
        ([key(15, False), key(1)], [(0, 15)]),
    ],
)
def test_a_label_studio_box_is_there_from_an_enabled_key_frame_to_the_next(
    sequence: list[dict[str, Any]], expected: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert spans(label_studio(tmp_path, *sequence)) == [expected]


def test_label_studio_counts_frames_from_1_and_sides_in_percent(tmp_path: Path) -> None:
    (there,) = presences(label_studio(tmp_path, key(1, x=0), key(11, False, x=20)))
    assert boxes_at(there, 0) == [0, 20, 20, 50]
    assert boxes_at(there, 5) == [20, 20, 40, 50]
    assert (there.track.label, there.track.sentence, there.track.name) == ("dog", "a dog runs", "tJhY")


def test_a_label_studio_box_is_turned_about_its_corner_in_pixels(tmp_path: Path) -> None:
    (there,) = presences(label_studio(tmp_path, key(1, False, x=50, rotation=90)))
    assert boxes_at(there, 0) == [70, 20, 100, 40]


@pytest.mark.parametrize(
    ("count", "seconds"), [(60, 6), (61, 6.1), (59, 6), (60, None), (144, 6), (150, 6.25), (20, 6)]
)
def test_frames_that_label_studio_numbers_at_another_rate_are_converted_by_their_time(
    count: int, seconds: float | None, tmp_path: Path
) -> None:
    """A box from 1 s to 4 s of a video of 6 s, whatever the rate of the project's tag, and sound that ends later."""
    own, clock = count in (59, 60, 61), Clock.steady(60, 10)
    rate = 10 if own else count / (seconds or 6)
    source = label_studio(
        tmp_path, key(round(rate) + 1), key(round(4 * rate) + 1, False), framesCount=count, duration=seconds
    )
    ((span,),) = spans(source)
    assert span == (10, 41) if own else abs(span[0] - 10) <= 1 and abs(span[1] - 41) <= 2
    assert is_renumbered(source.clips["street.mp4"], clock) == (not own)
    (to_the_end,) = spans(label_studio(tmp_path, key(1), framesCount=count, duration=seconds))
    assert to_the_end == [(0, 60)]


def test_frames_of_a_video_with_an_uneven_rate_are_found_by_their_time(tmp_path: Path) -> None:
    """40 frames in the first second, then 20 in five: Label Studio shows 10 a second."""
    clock = Clock(np.append(np.arange(40) / 40, 1 + np.arange(20) / 4), 6.0, 1 / 40)
    source = label_studio(tmp_path, key(6), key(31, False))
    assert spans(source, clock) == [[(20, 49)]]
    assert is_renumbered(source.clips["street.mp4"], clock)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("/data/upload/3/4f3c2e1a-my%20street.mp4", ("my street.mp4", "4f3c2e1a-my street.mp4")),
        ("/data/local-files/?d=videos/street.mp4", ("street.mp4",)),
        ("s3://bucket/some/street.webm", ("street.webm",)),
        ("https://host/street.mp4?token=a", ("street.mp4",)),
    ],
)
def test_a_label_studio_video_is_called_by_the_name_in_its_address(
    address: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    (clip,) = label_studio(tmp_path, key(1), video=address).clips.values()
    assert (clip.name, *clip.also) == names


@pytest.mark.parametrize(
    ("key_frame", "complaint"),
    [
        (key(0), "frame: not such a number"),
        (key(1, x=None), "x: not a number"),  # type: ignore[arg-type]
        (key(1, x=float("inf")), "x: not a number"),
        (key(1, "yes"), "enabled: neither true nor false"),  # type: ignore[arg-type]
    ],
)
def test_a_faulty_label_studio_key_frame_is_named(key_frame: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as raised:
        label_studio(tmp_path, key_frame)
    assert complaint in str(raised.value)
    assert "sequence[0]" in str(raised.value)


def test_what_else_a_label_studio_task_holds_is_counted(tmp_path: Path) -> None:
    label_studio(tmp_path, key(1))
    (task,) = json.loads((tmp_path / "export.json").read_text())
    task["annotations"][0]["result"].append({"type": "choices", "value": {}})
    task["annotations"] = [{"was_cancelled": True, "result": []}, *task["annotations"] * 2]
    (tmp_path / "export.json").write_text(json.dumps([task, {"data": {"video": "b.mp4"}, "annotations": []}]))
    source = FORMATS["label-studio"].read(tmp_path / "export.json")
    assert len(source.tracks) == 1
    assert source.left_out == {
        "tasks without an annotation": 1,
        "further annotations of a task, of which the first is taken": 1,
        "results that are no box of a video": 1,
    }
    (tmp_path / "export.json").write_text(json.dumps([{"id": 1, "video": "b.mp4", "box": []}]))
    with pytest.raises(AnnotationError, match="annotations: missing") as raised:
        FORMATS["label-studio"].read(tmp_path / "export.json")
    assert "JSON-MIN" in str(raised.value)
