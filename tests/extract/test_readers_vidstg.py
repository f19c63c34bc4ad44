"""VidSTG: sentences from one file, boxes from another, and every way in which the two can be wrong."""

from __future__ import annotations

import copy
import gzip
import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.sampling import Sampling, slots_in
from stvg.errors import AnnotationError, UsageError
from stvg.extract.datasets.folders import default_video_folder, find_splits
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.video.video_files import find_video_files

FRAMES = 40


def entry(tid: int, frame: int) -> dict[str, Any]:
    box = {"xmin": tid + frame, "ymin": 5, "xmax": tid + frame + 20.5, "ymax": 45}
    return {"tid": tid, "bbox": box, "generated": 0, "tracker": "none"}


def record(vid: str = "7", target: int = 0) -> dict[str, Any]:
    return {
        "vid": vid,
        "frame_count": FRAMES,
        "fps": 10,
        "width": 160,
        "height": 120,
        "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 1, "category": "dog"}],
        "used_segment": {"begin_fid": 3, "end_fid": FRAMES - 1},
        "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": "hold", "begin_fid": 10, "end_fid": FRAMES},
        "temporal_gt": {"begin_fid": 10, "end_fid": FRAMES},
        "captions": [{"description": " an\u00a0adult  holds\na dog. ", "type": "person", "target_id": target}],
        "questions": [
            {"description": "who holds the dog?", "type": "person", "target_id": 0},
            {"description": "what does the adult hold?", "type": "object", "target_id": 1},
        ],
    }


def vidor(vid: str = "7") -> dict[str, Any]:
    return {
        "video_id": vid,
        "video_path": f"1007/{vid}.mp4",
        "frame_count": FRAMES,
        "fps": 10.0,
        "width": 160,
        "height": 120,
        "trajectories": [[entry(1, f), entry(0, f), entry(9, f)] for f in range(FRAMES)],
    }


class Folder:
    """A VidSTG dataset of records and VidOR files, written anew by ``read``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Any] = [record()]
        self.vidor: dict[str, Any] = {"7": vidor()}

    def write(self, split: str = "test", boxes: str = "vidor/annotation/validation") -> None:
        (self.path / "annotations").mkdir(parents=True, exist_ok=True)
        (self.path / "annotations" / f"{split}_annotations.json").write_text(json.dumps(self.records))
        group = self.path / boxes / "1007"
        group.mkdir(parents=True, exist_ok=True)
        for vid, content in self.vidor.items():
            (group / f"{vid}.json").write_text(json.dumps(content))

    def read(self, **options: Any) -> Any:
        self.write()
        return read_annotations("vidstg", self.path, "test", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "vidstg")


# --- faults -----------------------------------------------------------------------------------------------------------


def spoil(target: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    at: Any = target
    for key in parents:
        at = at[int(key) if isinstance(at, list) else key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value


RECORD_FAULTS = [
    ("vid", ..., "vid: missing"),
    ("vid", 7, "vid: not a text"),
    ("vid", "8", "vid: video 8 has no VidOR annotation"),
    ("fps", True, "fps: not such a number"),
    ("fps", float("nan"), "fps: not such a number"),
    ("fps", 4.99, "fps: the video has fewer frames per second"),
    ("fps", 10.5, "fps: differs from VidOR"),
    ("width", 161, "width: differs from VidOR"),
    ("height", 0, "height: not such a number"),
    ("frame_count", FRAMES + 1, "frame_count: differs from VidOR"),
    ("frame_count", 40.0, "frame_count: not such a number"),
    ("frame_count", True, "frame_count: not such a number"),
    ("frame_count", 10**400, "frame_count: not such a number"),
    ("used_segment", [3, 39], "used_segment: not an object"),
    ("used_segment.begin_fid", -1, "used_segment.begin_fid: not such a number"),
    ("used_segment.end_fid", 3, "used_segment: not a span"),
    ("used_segment.end_fid", FRAMES + 1, "used_segment: ends after the video"),
    ("temporal_gt.begin_fid", 2, "temporal_gt: not inside the used_segment"),
    ("temporal_gt.end_fid", 10, "temporal_gt: not a span"),
    ("temporal_gt.end_fid", FRAMES + 1, "temporal_gt: not inside the used_segment"),
    ("used_segment.end_fid", FRAMES - 2, "temporal_gt: not inside the used_segment"),
    ("subject/objects", ..., "subject/objects: missing"),
    ("subject/objects.1.tid", 0, "subject/objects: a tid occurs twice"),
    ("subject/objects.1.tid", "1", "subject/objects[1].tid: not such a number"),
    ("questions", ..., "questions: missing"),
    ("questions", {}, "questions: not a list"),
    ("captions.0", "a dog", "captions[0]: not an object"),
    ("captions.0.description", " \u00a0\n", "captions[0].description: not a text, or an empty one"),
    ("captions.0.description", None, "captions[0].description: not a text"),
    ("captions.0.description", "a \ud800 dog", "captions[0].description: half of a surrogate pair"),
    ("captions.0.target_id", 2, "captions[0].target_id: no such object"),
    ("captions.0.target_id", False, "captions[0].target_id: not such a number"),
]


@pytest.mark.parametrize(("field", "value", "complaint"), RECORD_FAULTS)
def test_a_faulty_field_is_named_with_its_file_and_record(
    folder: Folder, field: str, value: object, complaint: str
) -> None:
    folder.records = [record(), record()]
    spoil(folder.records[1], field, value)
    with pytest.raises(AnnotationError) as caught:
        folder.read()
    assert f"test_annotations.json, record 1, {complaint}" in caught.value.message
    kept = folder.read(on_bad_record="skip")
    assert [e.record for e in kept.dropped] == [1]
    assert [s.sample_id for s in kept.samples] == [0, 1, 2]


VIDOR_FAULTS = [
    ("trajectories", ..., "trajectories: missing"),
    ("trajectories", {}, "trajectories: not a list"),
    ("trajectories.12", 5, "trajectories[12]: not the boxes of one frame"),
    ("trajectories.12.0.tid", ..., "trajectories[12]: not the boxes of one frame"),
    ("trajectories.12.0.tid", [], "trajectories[12]: not the boxes of one frame"),
    ("trajectories.12.0.bbox.ymax", ..., "trajectories[12]: not the boxes of one frame"),
    ("trajectories.12.0.bbox.ymax", "45", "trajectories[12]: not a box"),
    ("trajectories.12.0.bbox.ymax", True, "trajectories[12]: not a box"),
    ("trajectories.12.0.bbox.ymax", float("inf"), "trajectories[12]: a coordinate that is no number"),
    ("trajectories.12.0.bbox.ymax", 10**400, "trajectories: a coordinate with hundreds of digits"),
    ("trajectories.12.0.bbox.ymax", 5, "a box without area"),
    ("trajectories.12.0.bbox.xmax", -1, "a box without area"),
    ("trajectories.12.0.tid", 0, "trajectories: tid 0 has two boxes in one frame"),
    ("video_path", ..., "video_path: missing"),
    ("width", "160", "width: not such a number"),
]


@pytest.mark.parametrize(("field", "value", "complaint"), VIDOR_FAULTS)
def test_a_fault_in_a_vidor_file_drops_the_records_of_that_video_only(
    folder: Folder, field: str, value: object, complaint: str
) -> None:
    folder.records.append(record("8"))
    folder.vidor["8"] = vidor("8")
    spoil(folder.vidor["7"], field, value)
    with pytest.raises(AnnotationError, match=re.escape(complaint)):
        folder.read()
    kept = folder.read(on_bad_record="skip")
    assert {s.video.video_id for s in kept.samples} == {"8"}
    assert [s.sample_id for s in kept.samples] == [3, 4, 5]
    assert len(kept.dropped) == 1


def test_trajectories_that_end_before_the_moment_are_a_fault(folder: Folder) -> None:
    del folder.vidor["7"]["trajectories"][-1]
    with pytest.raises(AnnotationError, match=r"trajectories of .* end before it"):
        folder.read()


def test_scoring_needs_boxes_in_sampled_frames_of_the_moment_only(folder: Folder) -> None:
    del folder.vidor["7"]["trajectories"][37:]
    assert folder.read(for_scoring=True, sampling=Sampling(fps=2.5)).samples[0].frames(Sampling(fps=2.5)).max() == 36
    with pytest.raises(AnnotationError, match="none in frames 38"):
        folder.read(for_scoring=True)


def test_scoring_takes_a_moment_outside_its_segment_and_a_video_described_otherwise(folder: Folder) -> None:
    folder.records[0]["used_segment"] = {"begin_fid": 0, "end_fid": 5}
    folder.records[0]["width"] = 170
    (first, *_) = folder.read(for_scoring=True).samples
    assert (first.segment, first.moment) == ((0, 5), (10, FRAMES))


@settings(max_examples=40, deadline=None)
@given(
    present=st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES),
    begin=st.integers(0, FRAMES - 2),
    length=st.integers(1, FRAMES),
    fps=st.sampled_from([2.0, 5.0, 10.0]),
    most=st.sampled_from([5, 100]),
)
def test_a_sentence_is_spoiled_exactly_when_a_sampled_frame_of_its_moment_has_no_box(
    present: list[bool], begin: int, length: int, fps: float, most: int
) -> None:
    with tempfile.TemporaryDirectory() as here:
        folder = Folder(Path(here))
        end = min(begin + length, FRAMES)
        spoil(folder.records[0], "used_segment.begin_fid", 0)
        spoil(folder.records[0], "temporal_gt", {"begin_fid": begin, "end_fid": end})
        folder.records[0]["questions"] = []
        folder.vidor["7"]["trajectories"] = [[entry(0, f)] if there else [] for f, there in enumerate(present)]
        sampling = Sampling(fps, most)
        read = folder.read(sampling=sampling, on_bad_record="skip")
    frames = np.arange(0, FRAMES - 1)
    grid = frames[np.diff(np.floor(frames * fps / 10), prepend=-1) > 0]
    picked = grid if len(grid) <= most else grid[[j * len(grid) // most for j in range(most)]]
    wanted = picked[slots_in(picked, (begin, end))]
    missing = [f for f in wanted.tolist() if not present[f]]
    if missing or not len(wanted):
        (fault,) = read.dropped
        assert not read.samples
        assert fault.facts["found"].startswith(f"none in frames {missing[0]}" if missing else "frames ")
        return
    (sample,) = read.samples
    expected = [[f, 5, f + 20.5, 45] if present[f] else [np.nan] * 4 for f in range(begin, end)]
    np.testing.assert_array_equal(sample.boxes, expected)


def paths(value: Any, prefix: str = "") -> list[str]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [p for key, v in inside for p in [f"{prefix}{key}", *paths(v, f"{prefix}{key}.")]]


JUNK = st.sampled_from([..., None, True, -1, 0, 3.5, "", "x", [], {}, [[]], [None], {"a": 1}, 10**30, float("nan")])


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(
        [("record", p) for p in paths(record())]
        + [("vidor", p) for p in paths(vidor()) if not p.startswith("traj")]
        + [("vidor", p) for p in ("trajectories", "trajectories.20", "trajectories.20.1", "trajectories.20.1.bbox")]
    ),
    JUNK,
    st.booleans(),
)
def test_junk_in_any_field_is_either_harmless_or_an_annotation_error(
    place: tuple[str, str], junk: object, for_scoring: bool
) -> None:
    with tempfile.TemporaryDirectory() as here:
        folder = Folder(Path(here))
        spoilt: Any = folder.records[0] if place[0] == "record" else folder.vidor["7"]
        if junk is ... and place[1].split(".")[-1].isdigit():
            junk = None  # deleting from a list only moves its neighbours
        spoil(spoilt, place[1], junk)
        with suppress(AnnotationError):
            folder.read(for_scoring=for_scoring)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1 column 1: not JSON"),
        (b"[{\n 'vid': 7}]", "line 2 column 2: not JSON"),
        (b"\x1f\x8b\x08cut", "cannot be read"),
        (b"\xff\xfe\xff", "not JSON"),
        (b'{"vid": 1}', "not a list of records"),
        (b'[{"vid": "7", "vid": "8"}]', "the key 'vid' occurs twice"),
        (b"[" * 100_000, "not JSON that can be read"),
        (b"[" + b"9" * 5000 + b"]", "not JSON that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "starts with 'version https://git-lfs"),
    ],
)
def test_a_file_that_is_not_json_is_named_with_the_place(folder: Folder, content: bytes, complaint: str) -> None:
    folder.write()
    file = folder.path / "annotations" / "test_annotations.json"
    file.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        read_annotations("vidstg", folder.path, "test")
    assert str(file) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_training_moment_without_a_sampled_frame_is_left_out_with_a_warning(folder: Folder) -> None:
    folder.records[0]["temporal_gt"] = {"begin_fid": 11, "end_fid": 12}
    folder.write("train", "vidor/annotation/training")
    read = read_annotations("vidstg", folder.path, "train")
    assert not read.samples
    assert not read.dropped
    assert any("3 training samples left out" in w for w in read.warnings)
    with pytest.raises(AnnotationError, match="temporal_gt: no sampled frame falls into it"):
        folder.read()


# --- what is read -----------------------------------------------------------------------------------------------------


def test_questions_come_first_and_numbers_run_on_over_dropped_records(folder: Folder) -> None:
    bad = copy.deepcopy(record())
    bad["fps"] = "10"
    folder.records = [record(), bad, "nonsense", record()]
    read = folder.read(on_bad_record="skip")
    assert [s.sample_id for s in read.samples] == [0, 1, 2, 6, 7, 8]
    assert [s.qtype for s in read.samples[:3]] == ["interrogative", "interrogative", "declarative"]
    assert [s.target_id for s in read.samples[:3]] == ["0", "1", "0"]
    assert [e.record for e in read.dropped] == [1, 2]
    assert read.records == 4


def test_white_space_is_normalised_and_nothing_else_of_a_sentence(folder: Folder) -> None:
    assert folder.read().samples[2].sentence == "an adult holds a dog."


def test_a_sample_carries_the_video_the_spans_and_the_boxes_of_its_target(folder: Folder) -> None:
    sample = folder.read().samples[1]
    video = sample.video
    assert (video.path, video.width, video.height, video.fps, video.frame_count) == ("1007/7.mp4", 160, 120, 10, FRAMES)
    assert (sample.segment, sample.moment, sample.baseline_shift) == ((3, 39), (10, 40), 0)
    np.testing.assert_array_equal(sample.boxes, [[1 + f, 5, f + 21.5, 45] for f in range(10, 40)])


def test_boxes_of_one_target_are_stored_once_however_many_sentences_ask_for_them(folder: Folder) -> None:
    folder.records = [record(), record()]
    samples = folder.read().samples
    assert samples[0].boxes.base is not None
    assert samples[0].boxes.base is samples[2].boxes.base is samples[3].boxes.base


def test_a_box_that_reaches_beyond_the_picture_is_kept_as_it_is_and_counted(folder: Folder) -> None:
    folder.vidor["7"]["trajectories"][20][1]["bbox"]["xmin"] = -3
    read = folder.read()
    assert read.samples[0].boxes[10, 0] == -3
    assert any("2 boxes of 2 samples reach beyond the picture" in w for w in read.warnings)


def test_the_hash_depends_on_the_content_and_not_on_place_or_packing(folder: Folder, tmp_path: Path) -> None:
    before = folder.read().sha256
    elsewhere = Folder(tmp_path / "other")
    elsewhere.write(boxes="training_and_more/validation")
    plain = elsewhere.path / "annotations" / "test_annotations.json"
    packed = tmp_path / "test_annotations.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    read = read_annotations("vidstg", packed, "test", vidor=elsewhere.path / "training_and_more")
    assert read.sha256 == before
    folder.vidor["7"]["trajectories"][0] = []
    assert folder.read().sha256 != before


# --- where files are looked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "boxes",
    ["vidor/annotation/validation", "vidor/validation", "annotation/validation", "validation", "../vidor/validation"],
)
@pytest.mark.parametrize("where", ["annotations", "", "vidstg/annotations", "vidstg"])
def test_known_layouts_are_found(folder: Folder, boxes: str, where: str) -> None:
    folder.write(boxes=boxes)
    target = folder.path / where / "test_annotations.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder.path / "annotations" / "test_annotations.json").rename(target)
    assert find_splits("vidstg", folder.path) == ["test"]
    for path in (folder.path, target):
        assert len(read_annotations("vidstg", path, "test").samples) == 3


def test_train_and_val_take_vidors_training_part(folder: Folder) -> None:
    for split in ("train", "val"):
        folder.write(split, "vidor/training")
        assert len(read_annotations("vidstg", folder.path, split).samples) == 3
    folder.write("test", "vidor/training")
    with pytest.raises(UsageError, match="no VidOR annotations") as caught:
        read_annotations("vidstg", folder.path, "test")
    assert "--vidor" in str(caught.value)


def test_videos_are_found_in_their_group_folder(folder: Folder) -> None:
    (sample, *_) = folder.read().samples
    videos = folder.path / "vidor" / "video"
    (videos / "1007").mkdir(parents=True)
    assert default_video_folder("vidstg", folder.path / "annotations" / "test_annotations.json") == videos
    assert "7.mp4 is not in" in str(find_video_files([sample.video], videos)["7"])
    (videos / "1007" / "7.mp4").touch()
    assert find_video_files([sample.video], videos) == {"7": videos / "1007" / "7.mp4"}


def test_wrong_names_are_answered_with_the_nearest_and_with_what_exists(folder: Folder) -> None:
    folder.write()
    with pytest.raises(UsageError, match="no dataset 'vidsgt'") as caught:
        read_annotations("vidsgt", folder.path, "test")
    assert caught.value.facts == {"expected": "one of vidstg, hcstvg-v1, hcstvg-v2, json", "hint": "vidstg?"}
    with pytest.raises(UsageError, match="no split 'tset' of vidstg") as caught:
        read_annotations("vidstg", folder.path, "tset")
    assert caught.value.facts["hint"] == "test?"
    with pytest.raises(UsageError, match="no annotations of split 'val'") as caught:
        read_annotations("vidstg", folder.path, "val")
    assert caught.value.facts["found"] == "the splits test"
    with pytest.raises(UsageError, match="holds the split 'test', not 'val'"):
        read_annotations("vidstg", folder.path / "annotations" / "test_annotations.json", "val")
    with pytest.raises(UsageError, match="does not exist"):
        read_annotations("vidstg", folder.path / "nowhere", "test")


# --- recorded and published data --------------------------------------------------------------------------------------


def test_the_published_val_file_has_its_published_counts(shared: Path) -> None:
    read = read_annotations("vidstg", shared / "real" / "vidstg", "val", boxes=False)
    videos = {s.video.video_id for s in read.samples}
    segments = {(s.video.video_id, s.segment) for s in read.samples}
    assert (len(read.samples), read.records, len(videos), len(segments)) == (8_956, 3_996, 602, 2_048)
    assert sum(s.qtype == "declarative" for s in read.samples) == 3_996
    assert sum(s.moment[1] > s.segment[1] for s in read.samples if s.qtype == "declarative") == 744
    assert not read.warnings


def test_real_videos_with_boxes_are_read_without_complaint(shared: Path) -> None:
    found = [
        len(read_annotations("vidstg", shared / "real" / folder, split).samples)
        for folder, split in (("vidstg_vidor", "val"), ("vidstg_tracks", "train"), ("vidstg_tracks", "test"))
    ]
    assert found == [26, 12, 2]


def test_frames_moments_and_boxes_equal_the_recorded_evaluator(shared: Path) -> None:
    golden = shared / "golden"
    for block in json.loads((golden / "metrics_vidstg.json").read_text())["blocks"]:
        if not block["use_predicted_moment"]:
            continue
        sampling = Sampling(block["fps"], block["video_max_len"])
        samples = read_annotations("vidstg", golden / "vidstg", "test", sampling=sampling, for_scoring=True).samples
        assert len(samples) == len(block["samples"]) == 104
        for sample, expected in zip(samples, sorted(block["samples"], key=lambda s: s["sample_id"]), strict=True):
            frames = sample.frames(sampling)
            inside = frames[slots_in(frames, sample.moment)]
            assert sample.sample_id == expected["sample_id"]
            assert (sample.video.video_id, sample.qtype) == (expected["vid"], expected["qtype"])
            assert sample.target_id == str(expected["target_id"])
            assert frames.tolist() == expected["frame_ids"]
            assert inside.tolist() == expected["moment_frame_ids"]
            assert list(sample.moment) == expected["expected"]["gt_sted"]
            assert sample.boxes_at(inside).tolist() == expected["gt_boxes"]


def test_the_full_check_finds_what_is_deliberately_wrong_in_the_recorded_data(shared: Path) -> None:
    read = read_annotations("vidstg", shared / "golden" / "vidstg", "test", on_bad_record="skip")
    assert sorted((e.record, e.field) for e in read.dropped) == [(43, "temporal_gt"), (46, "temporal_gt")]
    assert len(read.samples) == 100
