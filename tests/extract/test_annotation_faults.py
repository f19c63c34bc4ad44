"""What is odd about annotation files, whatever the dataset: their encoding, their names, halves of characters."""

from __future__ import annotations

import bz2
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stvg.errors import AnnotationError, UsageError
from stvg.extract.datasets.folders import find_splits
from stvg.extract.datasets.readers import read_annotations

VIDEO = {"file": "beach.mp4", "width": 640, "height": 480, "fps": 10, "frame_count": 100}
BOXES = {str(f): [f, 5, f + 20, 45] for f in range(20, 40)}
SAMPLE = {"id": "a", "video": "beach", "sentence": "a dog runs", "moment": [20, 40], "boxes": BOXES}
HCSTVG = {"bbox": [[1, 2, 30, 40]] * 50, "st_time": 1, "ed_time": 6, "img_num": 200, "caption": "he sits down"}
HCSTVG |= {"width": 640, "height": 480, "st_frame": 11}
HALF = "beach\udce9"
CONTENT = {"videos": {"beach": VIDEO}, "samples": [{**SAMPLE, "sentence": "der Hund läuft"}]}


def write(folder: Path, *samples: dict[str, Any], video: dict[str, Any] = VIDEO, name: str = "beach") -> Path:
    file = folder / "train.json"
    file.write_text(json.dumps({"videos": {"beach": VIDEO, name: video}, "samples": samples}))
    return file


@pytest.mark.parametrize("field", ["id", "video", "target", "type", "sentence"])
@pytest.mark.parametrize("half", [0xDCE9, 0xD83D, 0xDE00])
def test_half_a_character_in_a_sample_is_named_and_the_others_go_on(tmp_path: Path, field: str, half: int) -> None:
    write(tmp_path, SAMPLE, {**SAMPLE, "id": "b", field: f"beach{chr(half)}"}, name=f"beach{chr(half)}")
    with pytest.raises(AnnotationError, match=f"record 1, {field}: half of a surrogate pair"):
        read_annotations("json", tmp_path, "train")
    read = read_annotations("json", tmp_path, "train", on_bad_record="skip")
    assert [s.sample_id for s in read.samples] == ["a"]


def test_half_a_character_in_the_name_of_a_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, {**SAMPLE, "video": "other"}, name="other", video={**VIDEO, "file": HALF + ".mp4"})
    with pytest.raises(AnnotationError, match=r"videos\.other\.file: half of a surrogate pair"):
        read_annotations("json", tmp_path, "train")


def test_half_a_character_in_a_key_or_caption_of_hcstvg_is_named(tmp_path: Path) -> None:
    records = {"1_a.mp4": HCSTVG, f"{HALF}.mp4": HCSTVG, "2_b.mp4": {**HCSTVG, "caption": HALF}}
    (tmp_path / "train.json").write_text(json.dumps(records))
    read = read_annotations("hcstvg-v1", tmp_path, "train", on_bad_record="skip")
    assert [s.sample_id for s in read.samples] == ["1_a.mp4"]
    assert [error.field for error in read.dropped] == ["key", "caption"]


def test_half_a_character_in_a_vid_or_in_a_path_of_vidor_is_named(synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic / "annotations", tmp_path / "annotations")
    shutil.copytree(synthetic / "vidor" / "annotation", tmp_path / "vidor" / "annotation")
    boxes = min((tmp_path / "vidor").rglob("*.json"))
    boxes.write_text(json.dumps(json.loads(boxes.read_text()) | {"video_path": HALF}))
    file = tmp_path / "annotations" / "train_annotations.json"
    records = json.loads(file.read_text())
    file.write_text(json.dumps([*records, {**records[-1], "vid": HALF}]))
    read = read_annotations("vidstg", tmp_path, "train", on_bad_record="skip")
    assert {error.field for error in read.dropped} == {"vid", "video_path"}
    assert len({s.video.video_id for s in read.samples}) == 5


def test_a_split_whose_file_has_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE).rename(tmp_path / "caf\udce9.json")
    (split,) = find_splits("json", tmp_path)
    with pytest.raises(UsageError, match="not UTF-8"):
        read_annotations("json", tmp_path, split)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
def test_annotations_are_read_in_every_unicode_encoding_gzipped_or_not(
    tmp_path: Path, encoding: str, packed: bool
) -> None:
    content = json.dumps(CONTENT, ensure_ascii=False).encode(encoding)
    (tmp_path / "train.json").write_bytes(gzip.compress(content) if packed else content)
    (sample,) = read_annotations("json", tmp_path, "train").samples
    assert sample.sentence == "der Hund läuft"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps(CONTENT, ensure_ascii=False).encode("latin-1"), "line 1: not JSON: not even text"),
        (bz2.compress(b"{}"), "a bzip2 archive, not JSON"),
        (b"PK\x03\x04rest", "a ZIP archive, not JSON"),
        (gzip.compress(b"{}", mtime=0)[:-9], "cannot be read"),
    ],
    ids=["latin-1", "bzip2", "zip", "cut short"],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=complaint):
        read_annotations("json", tmp_path, "train")


def test_hidden_files_are_no_splits(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE)
    for name in ("._train.json", ".backup.json", "._val.json.gz"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert find_splits("json", tmp_path) == ["train"]
    with pytest.raises(UsageError, match="no split of json"):
        find_splits("json", tmp_path / ".hidden")


def test_a_path_that_no_file_can_have_is_said(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    for dataset in ("json", "vidstg", "hcstvg-v1"):
        with pytest.raises(UsageError, match="does not exist"):
            read_annotations(dataset, long, "train")


def test_a_box_file_that_stands_in_two_groups_is_refused_and_the_others_go_on(synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic / "annotations", tmp_path / "annotations")
    shutil.copytree(synthetic / "vidor" / "annotation", tmp_path / "vidor" / "annotation")
    group = tmp_path / "vidor" / "annotation" / "training" / "0999"
    hidden = group.parent / ".trash"
    boxes = min(group.parent.rglob("*.json"))
    for folder in (group, hidden):
        folder.mkdir()
    shutil.copy(boxes, hidden)
    (group / boxes.name).symlink_to(boxes)
    assert not read_annotations("vidstg", tmp_path, "train").dropped
    (group / boxes.name).unlink()
    shutil.copy(boxes, group)
    read = read_annotations("vidstg", tmp_path, "train", on_bad_record="skip")
    (fault,) = read.dropped
    assert "2 different VidOR files" in fault.message
    assert str(boxes) in fault.facts["found"]
    assert str(group / boxes.name) in fault.facts["found"]
    assert len({s.video.video_id for s in read.samples}) == 5


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"boxes": {"20": [0, 0, 9, 9], "39": [0, 0, 9, 9]}}, '"interpolate": true puts boxes'),
        ({"boxes": {"22": [0, 0, 9, 9], "39": [0, 0, 9, 9]}}, "list a box at 20 and 39"),
        ({"boxes": {"22": [0, 0, 9, 9], "39": [0, 0, 9, 9]}, "interpolate": True}, "list a box at 20 and 39"),
        ({"boxes": {"20": [0, 0, 9, 9]}}, '"interpolate": true puts boxes'),
        ({"boxes": {"20": [0, 0, 9, 9]}, "interpolate": True}, "list a box at 20 and 39"),
        ({"boxes": {}, "interpolate": True}, "or make the moment shorter"),
    ],
)
def test_gaps_between_boxes_are_answered_with_interpolate(tmp_path: Path, fields: dict[str, Any], hint: str) -> None:
    write(tmp_path, {**SAMPLE, **fields})
    with pytest.raises(AnnotationError, match="has no box in") as caught:
        read_annotations("json", tmp_path, "train")
    assert hint in caught.value.facts["hint"]
