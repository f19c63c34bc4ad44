"""Annotations of other tools become ours: every frame and pixel where the tool had it, and nothing is lost unsaid."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.schema import Video
from stvg.errors import AnnotationError, UsageError
from stvg.extract.datasets.formats.importing import ImportReport, import_dataset
from stvg.extract.datasets.formats.model import Clip, Track
from stvg.extract.datasets.formats.presence import presence_of
from stvg.extract.datasets.formats.text_table import read_table, write_table
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.video.clock import Clock

from . import tool_exports as tools

EXPORTS: dict[str, tuple[str, Callable[[Path, list[tools.Drawn]], Path]]] = {
    "mot": ("mot", tools.write_mot),
    "coco-vid": ("coco-vid", tools.write_coco),
    "coco-vid counted from 1": ("coco-vid", lambda path, drawn: tools.write_coco(path, drawn, 1)),
    "youtube-vis": ("coco-vid", tools.write_youtube_vis),
    "csv": ("csv", tools.write_box_table),
    "cvat": ("cvat", tools.write_cvat),
    "label-studio": ("label-studio", tools.write_label_studio),
}
"""Name → format and writer."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def drawn(videos: Path) -> list[tools.Drawn]:
    return tools.drawn_videos(videos)


def mot(folder: Path, lines: str, name: str = "scene0", info: str = "") -> Path:
    """One sequence with these lines."""
    (folder / name / "gt").mkdir(parents=True, exist_ok=True)
    (folder / name / "gt/gt.txt").write_text(lines)
    if info:
        (folder / name / "seqinfo.ini").write_text(info)
    return folder


def table(folder: Path, *rows: str, columns: str = "video,track,sentence") -> Path:
    (folder / "sentences.csv").write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return folder / "sentences.csv"


LINES = "".join(f"{frame},7,{frame},21,20,30,1,1,1\n" for frame in range(1, 31))
"""Object 7 in the first 30 frames, from pixel 0 on one pixel a frame to the right."""


def imported(folder: Path, videos: Path, lines: str = LINES, *rows: str, **options: Any) -> ImportReport:
    columns = options.pop("columns", "video,track,sentence")
    sentences = table(folder, *(rows or ("scene0,7,a thing moves",)), columns=columns)
    return import_dataset("mot", mot(folder / "mot", lines), videos, folder / "out", sentences=sentences, **options)


def samples(folder: Path, split: str = "train") -> list[Any]:
    return read_annotations("json", folder, split).samples


@pytest.mark.parametrize("export", EXPORTS)
def test_every_box_and_moment_is_where_the_tool_had_it(
    export: str, drawn: list[tools.Drawn], videos: Path, tmp_path: Path
) -> None:
    kind, write = EXPORTS[export]
    path = write(tmp_path / "export", drawn)
    sentences = tools.write_sentences(tmp_path / "sentences.csv", drawn)
    report = import_dataset(kind, path, videos, tmp_path / "out", sentences=sentences)
    assert report.faults == []
    told = {(d.name, s, b, e): d.scene.things[t].boxes[b:e] for d in drawn for t, s, b, e in d.told}
    found = [*samples(tmp_path / "out"), *samples(tmp_path / "out", "test")]
    assert len(found) == len(told)
    assert {s.video.video_id for s in samples(tmp_path / "out", "test")} == {drawn[-1].name}
    for sample in found:
        expected = told[sample.video.video_id, sample.sentence, *sample.moment]
        assert np.array_equal(sample.boxes, expected)
        assert (sample.video.width, sample.video.height, sample.video.fps) == (160, 120, 10)
    silent = sum(len(d.scene.things) for d in drawn) - len({(d.name, t) for d in drawn for t, *_ in d.told})
    assert any(f"{silent} tracks without a sentence" in line for line in report.left_out)


def test_without_sentences_a_table_is_written_that_can_be_filled_in(videos: Path, drawn: Any, tmp_path: Path) -> None:
    gap = "".join(LINES.splitlines(keepends=True)[:10] + LINES.splitlines(keepends=True)[15:])
    path = mot(tmp_path / "mot", gap)
    report = import_dataset("mot", path, videos, tmp_path / "out")
    blank = tmp_path / "out/sentences.csv"
    rows = [row.cells for row in read_table(blank, ("video", "track", "sentence"), ("label", "start", "end", "split"))]
    assert [(r["video"], r["track"], r["label"], r["start"], r["end"]) for r in rows] == [
        ("scene0", "7", "pedestrian", "0", "10"),
        ("scene0", "7", "pedestrian", "15", "30"),
    ]
    assert f"--sentences {blank}" in report.lines()[-1]
    blank.write_text(
        blank.read_text().replace("10,train,", "10,train,it comes").replace("30,train,", "30,train,it leaves")
    )
    with pytest.raises(UsageError, match="there already"):
        import_dataset("mot", path, videos, tmp_path / "out")
    import_dataset("mot", path, videos, tmp_path / "out", sentences=blank)
    assert [(s.sentence, s.moment) for s in samples(tmp_path / "out")] == [
        ("it comes", (0, 10)),
        ("it leaves", (15, 30)),
    ]


def test_mot_pixels_count_from_1_unless_cvat_or_datumaro_wrote_them(videos: Path, drawn: Any, tmp_path: Path) -> None:
    imported(tmp_path, videos)
    assert samples(tmp_path / "out")[0].boxes[0].tolist() == [0, 20, 20, 50]
    (tmp_path / "mot/scene0/gt/labels.txt").write_text("zebra\nlion\n")
    imported(tmp_path, videos)
    assert samples(tmp_path / "out")[0].boxes[0].tolist() == [1, 21, 21, 51]


def test_mot_boxes_marked_as_ignored_are_left_out_and_counted(videos: Path, drawn: Any, tmp_path: Path) -> None:
    report = imported(tmp_path, videos, LINES + "1,8,5,5,20,20,0,8,1\n2,8,5,5,20,20,0,8,1\n")
    assert any("2 boxes marked as ignored" in line for line in report.left_out)
    assert report.faults == []


def test_a_gap_ends_a_presence_unless_it_is_bridged(videos: Path, drawn: Any, tmp_path: Path) -> None:
    gap = "".join(line for i, line in enumerate(LINES.splitlines(keepends=True)) if not 10 <= i < 13)
    with pytest.raises(UsageError, match="no sentence can be used") as refused:
        imported(tmp_path, videos, gap)
    assert "there more than once" in str(refused.value)
    assert "[0, 10), [13, 30)" in str(refused.value)
    imported(tmp_path, videos, gap, bridge=3)
    (sample,) = samples(tmp_path / "out")
    assert sample.moment == (0, 30)
    assert np.array_equal(sample.boxes[:, 0], np.arange(30))
    report = imported(tmp_path, videos, gap, "scene0,7,early,2,9", "scene0,7,across,2,20", columns=WITH_MOMENT)
    assert [s.moment for s in samples(tmp_path / "out")] == [(2, 9)]
    assert "its moment [2, 20) has frames without a box" in report.faults[0]


WITH_MOMENT = "video,track,sentence,start,end"


def test_frames_of_a_thinned_sequence_are_put_back_in_place(videos: Path, drawn: Any, tmp_path: Path) -> None:
    """Every third frame was annotated: frames 1, 2, 3 of the file are 0, 3, 6 of the video."""
    count = drawn[0].scene.frame_count
    numbered = -(-count // 3)
    lines = "".join(f"{n},7,{3 * n - 2},21,20,30,1,1,1\n" for n in range(1, numbered + 1))
    path = mot(tmp_path / "mot", lines, info=f"[Sequence]\nseqLength={numbered}\nimWidth=160\nimHeight=120\n")
    sentences = table(tmp_path, "scene0,7,a thing moves")
    with pytest.raises(UsageError) as refused:
        import_dataset("mot", path, videos, tmp_path / "out", sentences=sentences)
    assert "another number of frames" in str(refused.value)
    assert "--step 3" in str(refused.value)
    import_dataset("mot", path, videos, tmp_path / "out", sentences=sentences, step=3)
    (sample,) = samples(tmp_path / "out")
    assert sample.moment == (0, 3 * (numbered - 1) + 1)
    assert np.array_equal(sample.boxes[:, 0], np.arange(sample.moment[1]))


def test_boxes_outside_the_picture_are_no_boxes_and_those_beyond_its_edge_stay(
    videos: Path, drawn: Any, tmp_path: Path
) -> None:
    lines = LINES + "".join(f"{frame},9,{100 + 10 * frame},21,20,30,1,1,1\n" for frame in range(1, 11))
    report = imported(tmp_path, videos, lines, "scene0,9,it leaves")
    assert any("4 boxes outside the picture, scene0/9 (4)" in line for line in report.left_out)
    assert any("2 boxes beyond the picture's edge, kept: scene0/9 (2)" in note for note in report.notes)
    (sample,) = samples(tmp_path / "out")
    assert sample.moment == (0, 6)
    assert sample.boxes[-1].tolist() == [159, 20, 179, 50]


def test_what_is_left_out_is_named_and_the_exit_status_says_so(
    stvg: Any, videos: Path, drawn: Any, tmp_path: Path
) -> None:
    mot(tmp_path / "mot", LINES)
    mot(tmp_path / "mot", LINES, "scene9")
    rows = ("scene0,7,a thing moves", "scene0,8,nobody", "scene9,7,nowhere", "gone,7,nothing", "scene0,7,")
    words = ("dataset", "import", tmp_path / "mot", "--format", "mot", "--videos", videos, "--out", tmp_path / "out")
    ran = stvg(*words, "--sentences", table(tmp_path, *rows))
    assert ran.code == 3
    for said in (
        "scene9 is not in the folder of videos",
        "line 3: scene0 has no track 8",
        "line 4: video scene9 cannot be used",
        "line 5: no video gone",
        "1 row without a sentence: line 6",
        "train.json: 1 sentence about 1 video",
    ):
        assert said in ran.out
    assert (
        stvg("dataset", "check", "--dataset", "json", "--annotations", tmp_path / "out", "--videos", videos).code == 0
    )


def test_a_wrong_folder_of_videos_is_one_message(videos: Path, drawn: Any, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/other.mp4").write_bytes((videos / "scene0.mp4").read_bytes())
    for name in ("scene0", "scene1"):
        mot(tmp_path / "mot", LINES, name)
    with pytest.raises(UsageError, match="none of the 2 videos is in"):
        import_dataset("mot", tmp_path / "mot", tmp_path / "v", tmp_path / "out")
    with pytest.raises(UsageError, match="no track can be used") as refused:
        import_dataset("mot", tmp_path / "mot/scene0", tmp_path / "v", tmp_path / "out")
    assert "scene0 is not in the folder of videos" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_table_that_nobody_filled_in_is_no_dataset(videos: Path, drawn: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sentence can be used") as refused:
        imported(tmp_path, videos, LINES, "scene0,7,")
    assert "1 row without a sentence: line 2" in str(refused.value)


FAULTS = [
    ("1,7,0,0,9", "gt.txt, line 1: not a box"),
    ("1,7,0,0,9,nine,1,1,1", "gt.txt, line 1: not a box"),
    ("1,7,0,0,9,nan,1,1,1", "gt.txt, line 1: not a box"),
    ("0,7,0,0,9,9,1,1,1", "frames count from 1 in this format"),
    ("1.5,7,0,0,9,9,1,1,1", "not a box"),
    ("1,7,0,0,9,9,1,1,1\n1,7,0,0,9,9,1,1,1", "object 7: frame 0 (counted from 0) occurs twice"),
    ("1,7,1e300,0,9,9,1,1,1", "no number of pixels"),
    ("99,7,0,0,9,9,1,1,1", "has fewer frames than its annotation names"),
    ("\x00\x00\xff\xfe", "not a gt.txt: not even text|not a box"),
]


@pytest.mark.parametrize(("lines", "complaint"), FAULTS)
def test_a_faulty_mot_line_is_named(lines: str, complaint: str, videos: Path, drawn: Any, tmp_path: Path) -> None:
    with pytest.raises((AnnotationError, UsageError)) as raised:
        imported(tmp_path, videos, lines)
    assert any(said in str(raised.value) for said in complaint.split("|"))
    assert not (tmp_path / "out/train.json").exists()


TABLES = [
    (("video,track", "scene0,7"), "line 1: no column 'sentence'"),
    (("video,track,sentance", "scene0,7,a"), "unknown column 'sentance'"),
    (("video,track,sentence,sentence", "a,b,c,d"), "the column 'sentence' occurs twice"),
    (("video,track,sentence", ",7,a"), "line 2, video: empty"),
    (("video,track,sentence", "scene0,7,a thing, red"), "line 2: more cells than columns"),
    ((f"{WITH_MOMENT}", "scene0,7,a,3,"), "line 2, end: empty, and start is not"),
    ((f"{WITH_MOMENT}", "scene0,7,a,3,3"), "line 2, end: not a span of frames"),
    ((f"{WITH_MOMENT}", "scene0,7,a,3.5,9"), "line 2, start: not such a number"),
    ((f"{WITH_MOMENT}", "scene0,7,a,-1,9"), "line 2, start: not such a number"),
    (("video,track,sentence,split", "scene0,7,a,../up"), "line 2, split: cannot be the name of a split"),
    (("video,track,sentence,id", "scene0,7,a,x", "scene0,7,b,x"), "line 3, id: occurs twice"),
    (("video,track,sentence", 'scene0,7,"a'), "not CSV"),
    ((), "no column 'video'"),
]


@pytest.mark.parametrize(("lines", "complaint"), TABLES)
def test_a_faulty_table_of_sentences_is_named_by_line_and_column(
    lines: tuple[str, ...], complaint: str, videos: Path, drawn: Any, tmp_path: Path
) -> None:
    sentences = tmp_path / "sentences.csv"
    sentences.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(AnnotationError) as raised:
        import_dataset("mot", mot(tmp_path / "mot", LINES), videos, tmp_path / "out", sentences=sentences)
    assert "sentences.csv, line" in str(raised.value)
    assert complaint in str(raised.value)
    assert not (tmp_path / "out").exists()


def coco(**changes: Any) -> dict[str, Any]:
    boxes = [{"id": f, "image_id": f, "track_id": 5, "category_id": 1, "bbox": [f, 20, 20, 30]} for f in range(30)]
    images = [{"id": f, "video_id": 1, "frame_id": f} for f in range(30)]
    content = {"videos": [{"id": 1, "name": "scene0"}], "images": images, "annotations": boxes, "categories": []}
    return {**content, **changes}


BOX = {"id": 1, "image_id": 0, "track_id": 5, "bbox": [0, 0, 9, 9]}
COCO_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"videos": [{"id": 1}]}, "name: missing"),
    ({"videos": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "id: occurs twice"),
    ({"videos": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "the video occurs twice"),
    ({"images": [{"id": 0, "video_id": 2, "frame_id": 0}]}, "video_id: not among the file's videos"),
    ({"images": [{"id": 0, "video_id": 1}]}, "frame_id: missing"),
    ({"images": [{"id": i, "video_id": 1, "frame_id": 3} for i in (0, 1)]}, "two images of one frame"),
    ({"images": [{"id": 0, "video_id": 1, "frame_id": 4}]}, "nothing tells which"),
    ({"annotations": [{**BOX, "image_id": 99}]}, "image_id: not among the file's images"),
    ({"annotations": [{"id": 1, "image_id": 0, "bbox": [0, 0, 9, 9]}]}, "a box that is of no track"),
    ({"annotations": [{**BOX, "bbox": [0, 0, 9]}]}, "bbox[0]: not a box"),
    ({"annotations": [BOX, BOX]}, "frame 0 (counted from 0) occurs twice"),
    ({"annotations": [{**BOX, "bbox": [0, 0, float("nan"), 9]}]}, "no number of pixels"),
    ({"annotations": {}}, "annotations: not a list"),
]


@pytest.mark.parametrize(("changes", "complaint"), COCO_FAULTS)
def test_a_faulty_coco_record_is_named(
    changes: dict[str, Any], complaint: str, videos: Path, drawn: Any, tmp_path: Path
) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(AnnotationError) as raised:
        import_dataset("coco-vid", tmp_path / "coco.json", videos, tmp_path / "out")
    assert complaint in str(raised.value)


def test_coco_sentences_of_the_file_itself_are_taken(videos: Path, drawn: Any, tmp_path: Path) -> None:
    bboxes = [None, *[[1, 2, 30, 40]] * 20, None]
    track = {"id": 4, "video_id": 1, "bboxes": bboxes, "caption": "  a still\nthing "}
    (tmp_path / "vis.json").write_text(json.dumps(coco(annotations=[track], images=[])))
    import_dataset("coco-vid", tmp_path / "vis.json", videos, tmp_path / "out", split="val")
    (sample,) = samples(tmp_path / "out", "val")
    assert (sample.sentence, sample.moment, sample.target_id) == ("a still thing", (1, 21), "4")
    assert sample.boxes[0].tolist() == [1, 2, 31, 42]


def test_key_frames_of_a_table_are_joined_until_the_object_is_gone(videos: Path, drawn: Any, tmp_path: Path) -> None:
    lines = ("video;track;frame;x1;y1;x2;y2;outside", "scene0;dog;0;0;0;20;20;", "scene0;dog;10;10;0;30;20;0",
             "scene0;dog;15;;;;;1", "scene0;dog;40;50;50;70;70;0")  # fmt: skip
    (tmp_path / "boxes.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    sentences = table(tmp_path, "scene0,dog,it comes,0,15", "scene0,dog,it is back,40,41", columns=WITH_MOMENT)
    report = import_dataset("csv", tmp_path / "boxes.csv", videos, tmp_path / "out", sentences=sentences)
    assert report.faults == []
    text = json.loads((tmp_path / "out/train.json").read_text())
    come, back = text["samples"]
    assert list(come["boxes"]) == ["0", "10", "14"]
    assert come["boxes"]["14"] == come["boxes"]["10"]
    assert come["interpolate"] is True
    assert list(back["boxes"]) == ["40"]


def test_a_gap_in_a_table_with_a_line_for_every_frame_is_said(videos: Path, drawn: Any, tmp_path: Path) -> None:
    lines = [f"scene0,dog,{frame},0,0,20,20" for frame in (*range(10), *range(30, 40))]
    (tmp_path / "boxes.csv").write_text("\n".join(["video,track,frame,x1,y1,x2,y2", *lines]))
    report = import_dataset("csv", tmp_path / "boxes.csv", videos, tmp_path / "out")
    assert any("scene0/dog from 10 to 29" in note for note in report.notes)


def test_a_file_that_somebody_changed_is_not_replaced(videos: Path, drawn: Any, tmp_path: Path) -> None:
    imported(tmp_path, videos)
    imported(tmp_path, videos, LINES, "scene0,7,another sentence")
    file = tmp_path / "out/train.json"
    assert "another sentence" in file.read_text()
    file.write_text(file.read_text().replace("another", "a better"))
    with pytest.raises(UsageError, match="was changed since"):
        imported(tmp_path, videos)
    assert "a better sentence" in file.read_text()


def test_sentences_of_one_track_agree_on_its_boxes_whatever_their_moments(
    videos: Path, drawn: Any, tmp_path: Path
) -> None:
    lines = "".join(f"{frame},7,{frame / 3:.4f},21,20,30,1,1,1\n" for frame in range(4, 31, 7))
    rows = ("scene0,7,one,3,20", "scene0,7,two,5,25")
    imported(tmp_path, videos, lines, *rows, columns=WITH_MOMENT, bridge=9)
    assert [s.moment for s in samples(tmp_path / "out")] == [(3, 20), (5, 25)]


def test_a_video_that_can_be_two_files_is_refused_and_a_folder_tells_which(
    videos: Path, drawn: Any, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "v" / folder).mkdir(parents=True)
        (tmp_path / "v" / folder / "cam.mp4").write_bytes((videos / "scene0.mp4").read_bytes())
    with pytest.raises(UsageError, match="2 video files can be cam"):
        import_dataset("mot", mot(tmp_path / "one", LINES, "cam"), tmp_path / "v", tmp_path / "out")
    sentences = table(tmp_path, "b/cam,7,a thing moves")
    import_dataset("mot", mot(tmp_path / "two", LINES, "b/cam"), tmp_path / "v", tmp_path / "out", sentences=sentences)
    (sample,) = samples(tmp_path / "out")
    assert (sample.video.video_id, sample.video.path) == ("b/cam", "b/cam.mp4")


def test_pictures_without_their_video_are_answered_with_the_command_that_makes_it(
    videos: Path, drawn: Any, tmp_path: Path
) -> None:
    (tmp_path / "mot/MOT17-02/img1").mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / f"mot/MOT17-02/img1/{number:06d}.jpg").write_bytes(b"")
    mot(tmp_path / "mot", LINES, "MOT17-02", "[Sequence]\nframeRate=14\nimDir=img1\n")
    mot(tmp_path / "mot", LINES)
    report = import_dataset("mot", tmp_path / "mot", videos, tmp_path / "out")
    made = f"{videos}/MOT17-02.mp4"
    pictures = f"{tmp_path}/mot/MOT17-02/img1/%06d.jpg"
    assert f"ffmpeg -framerate 14 -start_number 1 -i {pictures} -crf 18 {made}" in report.faults[0]


def test_a_video_whose_name_is_no_text_is_named(videos: Path, drawn: Any, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / os.fsdecode(b"caf\xe9.mp4")).write_bytes((videos / "scene0.mp4").read_bytes())
    with pytest.raises(UsageError, match="not UTF-8"):
        import_dataset("mot", mot(tmp_path / "mot", LINES), tmp_path / "v", tmp_path / "out")


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(TEXT | st.sampled_from(["=1+1", "'=1", "''-x", "'", "+a", "a,b", '"', ";"]), min_size=2, max_size=2)
)
def test_every_text_comes_back_from_a_table(cells: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("table") / "t.csv"
    write_table(file, ("one", "two"), [cells])
    found = [row.cells for row in read_table(file, ("one", "two"), ())]
    assert found == ([{"one": cells[0], "two": cells[1]}] if any(c.strip() for c in cells) else [])


@settings(max_examples=100, deadline=None)
@given(
    frames=st.sets(st.integers(0, 99), min_size=1),
    bridge=st.integers(0, 5),
    hidden=st.sets(st.integers(0, 99)),
)
def test_runs_hold_every_box_inside_the_picture_and_no_gap_that_is_too_long(
    frames: set[int], bridge: int, hidden: set[int]
) -> None:
    listed = np.array(sorted(frames))
    boxes = np.array([[-50.0, 0, -1, 9] if f in hidden else [0.0, 0, 9, 9] for f in listed])
    video = Video("v", "v.mp4", 64, 48, 10.0, 100)
    clock = Clock.steady(100, 10)
    there = presence_of(Track("v", "t", "", listed, boxes), Clip("v"), video, clock, bridge=bridge)
    assert sorted(f for run in there.runs for f in run.frames.tolist()) == sorted(frames - hidden)
    assert there.outside == len(frames & hidden)
    for run in there.runs:
        assert (np.diff(run.frames) <= 1 + bridge).all()
    for run, following in zip(there.runs, there.runs[1:], strict=False):
        gone = frames & hidden & set(range(run.span[1], following.span[0]))
        assert gone or following.span[0] - run.span[1] >= bridge + 1
