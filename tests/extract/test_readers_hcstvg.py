"""HC-STVG, both versions: one sentence per 20-second video, frames counted from 1, boxes as x, y, w, h."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stvg.cache.sampling import Sampling, slots_in
from stvg.errors import AnnotationError, UsageError, VideoError
from stvg.extract.datasets.folders import default_video_folder, find_splits
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.video.video_files import find_video_files

V1 = {
    "bbox": [[10, 20, 30.5, 40]] * 60,
    "st_time": 2.0,
    "ed_time": 6.0,
    "img_num": 300,
    "caption": "The man\u00a0in black  walks. ",
    "width": 160,
    "height": 120,
    "st_frame": 31,
}
V2 = {k: v for k, v in V1.items() if k not in ("caption", "width", "height")} | {
    "img_size": [120, 160, 3],
    "English": V1["caption"],
}


def read(path: Path, records: object, dataset: str = "hcstvg-v1", **options: Any) -> Any:
    file = path / "some_name.json"
    file.write_text(json.dumps(records))
    return read_annotations(dataset, file, "train" if dataset == "hcstvg-v2" else "test", **options)


def changed(record: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {key: value for key, value in {**record, **fields}.items() if value is not ...}


FAULTS = [
    (changed(V1, bbox=[]), "bbox: empty"),
    (changed(V1, bbox=...), "bbox: missing"),
    (changed(V1, bbox=[[1, 2, 3]]), "bbox[0]: not a box"),
    (changed(V1, bbox=[[1, 2, 3, 4], [1, 2, 3, True]]), "bbox[1]: not a box"),
    (changed(V1, bbox=[[1, 2, 3, None]]), "bbox[0]: not a box"),
    (changed(V1, bbox=[[1, 2, float("nan"), 4]] * 9), "bbox[0]: a coordinate that is no number"),
    (changed(V1, bbox=[[1, 2, 0, 4]] * 9), "bbox: a box without area"),
    (changed(V1, bbox=[[1, 2, 3, -4]] * 9), "bbox: a box without area"),
    (changed(V1, bbox=[[160, 2, 3, 4]] * 9), "bbox: a box without area"),
    (changed(V1, bbox=[[1, 2, 3, 4]] * 271), "bbox: goes on after the video ends"),
    (changed(V1, bbox=[[1, 2, 3, 4]]), None),
    (changed(V1, bbox=[[1, 2, 3, 4]], st_frame=32), "st_frame: no sampled frame falls into it"),
    (changed(V1, st_frame=0), "st_frame: not such a number"),
    (changed(V1, st_frame=1.0), "st_frame: not such a number"),
    (changed(V1, img_num=99, bbox=[[1, 2, 3, 4]] * 9), "img_num: the video has fewer frames per second"),
    (changed(V1, img_num="300"), "img_num: not such a number"),
    (changed(V1, img_num=True), "img_num: not such a number"),
    (changed(V1, caption=" \u00a0"), "caption: not a text"),
    (changed(V1, caption=...), "English: missing"),
    (changed(V1, width=...), "width: missing"),
    (changed(V1, height=0), "height: not such a number"),
    (changed(V1, img_size=[121, 160]), "img_size: disagrees with width and height"),
    (changed(V2, img_size=[120]), "img_size: not a size"),
    (changed(V2, img_size=[120, "160"]), "img_size.width: not such a number"),
    (changed(V2, img_size=...), "width: missing"),
    (changed(V2, English=5), "English: not a text"),
    ([], "not an object"),
]


@pytest.mark.parametrize(("record", "complaint"), FAULTS)
@pytest.mark.parametrize("dataset", ["hcstvg-v1", "hcstvg-v2"])
def test_a_faulty_record_is_named_by_file_key_and_field(
    tmp_path: Path, record: object, complaint: str | None, dataset: str
) -> None:
    records = {"1_good.mp4": V2, "2_bad.mkv": record}
    if complaint is None or (dataset == "hcstvg-v2" and "no sampled" in complaint):  # v2 is read as "train" here
        assert not read(tmp_path, records, dataset).dropped
        return
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, records, dataset)
    assert caught.value.record == "2_bad.mkv"
    assert complaint in caught.value.message
    kept = read(tmp_path, records, dataset, on_bad_record="skip")
    assert [s.sample_id for s in kept.samples] == ["1_good.mp4"]
    assert [e.record for e in kept.dropped] == ["2_bad.mkv"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "not an object keyed by video"),
        ('{"a.mp4": {}, "a.mp4": {}}', "the key 'a.mp4' occurs twice"),
        ('{"a.mp4":\n {]}', "line 2 column 3"),
        ('{"": {}}', "the key is empty"),
    ],
)
def test_a_faulty_file_is_named_with_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "test.json"
    file.write_text(text)
    with pytest.raises(AnnotationError) as caught:
        read_annotations("hcstvg-v1", tmp_path, "test")
    assert str(file) in caught.value.message
    assert complaint in caught.value.message


def test_the_shortest_clips_are_read_at_a_lower_rate_only(tmp_path: Path) -> None:
    short = {"a.mp4": changed(V1, img_num=60, st_frame=2, bbox=[[1, 2, 3, 4]] * 9)}
    with pytest.raises(AnnotationError, match="img_num"):
        read(tmp_path, short)
    assert len(read(tmp_path, short, sampling=Sampling(fps=3)).samples) == 1


def test_scoring_takes_moments_that_leave_the_clip(tmp_path: Path) -> None:
    records = {
        "late.mp4": changed(V1, bbox=[[1, 2, 3, 4]], st_frame=300),
        "long.mp4": changed(V1, bbox=[[1, 2, 3, 4]] * 50, st_frame=290),
        "outside.mp4": changed(V1, bbox=[[500, 2, 3, 4]] * 50),
    }
    assert [s.moment for s in read(tmp_path, records, for_scoring=True).samples] == [(299, 300), (289, 339), (30, 80)]


@settings(max_examples=60, deadline=None)
@given(
    img_num=st.integers(100, 700),
    start=st.integers(1, 700),
    length=st.integers(1, 700),
    width=st.integers(1, 100),
    v2=st.booleans(),
)
def test_frames_count_from_one_and_boxes_become_corners(
    img_num: int, start: int, length: int, width: int, v2: bool
) -> None:
    boxes = [[i % 100, 5, width, 7.5] for i in range(length)]
    record = changed(V2 if v2 else V1, img_num=img_num, st_frame=start, bbox=boxes)
    with tempfile.TemporaryDirectory() as here:
        kept = read(Path(here), {"3_x.mkv": record}, on_bad_record="skip")
    if start - 1 + length > img_num:
        assert "goes on after the video ends" in kept.dropped[0].message
        return
    if not kept.samples:
        assert "no sampled frame" in kept.dropped[0].message
        assert length < img_num / 20 / 5 + 1 or start >= img_num - img_num / 100
        return
    (sample,) = kept.samples
    assert sample.sample_id == sample.video.video_id == sample.video.path == "3_x.mkv"
    assert (sample.video.width, sample.video.height, sample.video.fps) == (160, 120, img_num / 20)
    assert (sample.segment, sample.moment) == ((0, img_num - 1), (start - 1, start - 1 + length))
    assert (sample.sentence, sample.qtype) == ("The man in black walks.", "all")
    assert (sample.baseline_shift, sample.target_id) == (1, "0")
    np.testing.assert_array_equal(sample.boxes, [[x, y, x + w, y + h] for x, y, w, h in boxes])
    assert len(sample.frames(Sampling())) == (100 if img_num >= 200 else 99)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted({*V1, *V2})),
    st.sampled_from([..., None, True, -1, 0, 3.5, "", "x", [], {}, [[]], [None], 10**30, float("nan"), [[1e308] * 4]]),
    st.booleans(),
    st.booleans(),
)
@example("ed_time", 10**30, False, False)
def test_junk_in_any_field_is_either_harmless_or_an_annotation_error(
    field: str, junk: object, v2: bool, for_scoring: bool
) -> None:
    with tempfile.TemporaryDirectory() as here, suppress(AnnotationError):
        read(Path(here), {"a.mp4": changed(V2 if v2 else V1, **{field: junk})}, for_scoring=for_scoring)


def test_times_that_do_not_fit_a_clip_of_20_seconds_give_a_warning(tmp_path: Path) -> None:
    fitting = read(tmp_path, {"a.mp4": V1}).warnings
    assert not [w for w in fitting if "20 s" in w]
    odd = read(tmp_path, {"a.mp4": V1, "b.mp4": changed(V1, ed_time=3.6)}).warnings
    assert [w for w in odd if "1 record with" in w and "b.mp4" in w]


def test_boxes_beyond_the_picture_are_kept_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.mp4": changed(V1, bbox=[[150, 2, 30, 4]] * 50)})
    assert found.samples[0].boxes[0].tolist() == [150, 2, 180, 6]
    assert any("50 boxes of 1 sample reach beyond the picture" in w for w in found.warnings)


@pytest.mark.parametrize(
    ("dataset", "split", "name"),
    [
        ("hcstvg-v1", "train", "train.json"),
        ("hcstvg-v1", "test", "test.json.gz"),
        ("hcstvg-v2", "train", "train_v2.json"),
        ("hcstvg-v2", "val", "valv2.json"),
        ("hcstvg-v2", "val", "HCVG_val.json"),
    ],
)
@pytest.mark.parametrize("where", ["", "annotations", "annos", "annos/{}", "{}", "{}/annotations"])
def test_known_layouts_are_found_with_their_videos(
    tmp_path: Path, dataset: str, split: str, name: str, where: str
) -> None:
    file = tmp_path / where.format(dataset.replace("-", "_")) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"a.mp4": V1}))
    (tmp_path / "videos").mkdir()
    assert find_splits(dataset, tmp_path) == find_splits(dataset, file) == [split]
    for path in (tmp_path, file):
        assert len(read_annotations(dataset, path, split).samples) == 1
        assert default_video_folder(dataset, path) == tmp_path / "videos"


def test_the_splits_of_another_version_are_not_mistaken_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(UsageError, match="no split of hcstvg-v2"):
        find_splits("hcstvg-v2", tmp_path)
    with pytest.raises(UsageError, match="no split 'val' of hcstvg-v1"):
        read_annotations("hcstvg-v1", tmp_path, "val")


def test_videos_are_found_by_name_at_any_depth_and_doubles_are_refused(tmp_path: Path) -> None:
    videos = [s.video for s in read(tmp_path, {"a.mp4": V1, "b.mkv": V1, "c.mp4": V1}).samples]
    (tmp_path / "video" / "part1").mkdir(parents=True)
    (tmp_path / "video" / "part1" / "b.mkv").write_bytes(b"b")
    (tmp_path / "video" / "a.mp4").write_bytes(b"a")
    (tmp_path / "video" / "loop").symlink_to(tmp_path / "video")
    (tmp_path / "video" / "z").mkdir()
    (tmp_path / "video" / "z" / "b.mkv").symlink_to(tmp_path / "video" / "part1" / "b.mkv")
    found = find_video_files(videos, tmp_path / "video")
    assert isinstance(found.pop("c.mp4"), VideoError)
    assert found == {"a.mp4": tmp_path / "video" / "a.mp4", "b.mkv": tmp_path / "video" / "part1" / "b.mkv"}
    (tmp_path / "video" / "z" / "b.mkv").unlink()
    (tmp_path / "video" / "z" / "b.mkv").write_bytes(b"another b")
    with pytest.raises(UsageError, match=r"2 different files are called b\.mkv"):
        find_video_files(videos, tmp_path / "video")


def test_real_records_are_read_and_the_two_slow_ones_named(shared: Path) -> None:
    for dataset, test in (("hcstvg-v1", "test"), ("hcstvg-v2", "val")):
        for split, slow in (("train", "3_PETS09S2L1.mp4"), (test, "4_PETS09S2L1.mp4")):
            read = read_annotations(dataset, shared / "real" / "hcstvg", split, on_bad_record="skip")
            assert [(e.record, e.field) for e in read.dropped] == [(slow, "img_num")]
            slower = read_annotations(dataset, shared / "real" / "hcstvg", split, sampling=Sampling(fps=3))
            assert len(slower.samples) == len(read.samples) + 1 == slower.records


def test_both_versions_of_the_real_records_give_the_same_samples(shared: Path) -> None:
    folder, slow = shared / "real" / "hcstvg", Sampling(fps=3)
    one = read_annotations("hcstvg-v1", folder, "train", sampling=slow).samples
    two = read_annotations("hcstvg-v2", folder, "train", sampling=slow).samples
    for a, b in zip(one, two, strict=True):
        assert (a.sample_id, a.sentence, a.moment, a.video) == (b.sample_id, b.sentence, b.moment, b.video)
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_frames_moments_and_boxes_equal_the_recorded_evaluator_once_shifted(shared: Path) -> None:
    golden = shared / "golden"
    blocks = json.loads((golden / "metrics_hcstvg.json").read_text())["blocks"]
    for block in blocks:
        sampling = Sampling(block["fps"], block["video_max_len"])
        dataset, split = f"hcstvg-v{block['version']}", "test" if block["version"] == 1 else "val"
        file = golden / block["annotations_file"]
        samples = read_annotations(dataset, file, split, sampling=sampling, for_scoring=True).samples
        by_id = {s.sample_id: s for s in samples}
        assert len(samples) == len(block["samples"]) == 15
        for expected in block["samples"]:
            sample = by_id[expected["video_key"]]
            shift = sample.baseline_shift
            frames = sample.frames(sampling)
            inside = frames[slots_in(frames - shift, sample.moment)]
            assert frames.tolist() == expected["frame_ids"]
            assert inside.tolist() == expected["moment_frame_ids"]
            assert [t + shift for t in sample.moment] == expected["expected"]["gt_sted"]
            boxes = np.array(expected["gt_boxes"], dtype=np.float64).reshape(-1, 4)
            np.testing.assert_allclose(sample.boxes_at(inside - shift), boxes, rtol=0, atol=1e-9)
