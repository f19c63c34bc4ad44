"""Users' own annotations: strict about keys, generous about what may be left out."""

from __future__ import annotations

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

from stvg.cache.sampling import Sampling
from stvg.errors import AnnotationError, UsageError
from stvg.extract.datasets.folders import find_splits
from stvg.extract.datasets.readers import read_annotations

VIDEO = {"file": "trips/beach.mp4", "width": 160, "height": 120, "fps": 10, "frame_count": 100}
BOXES = {str(f): [f, 5, f + 20.5, 45] for f in range(20, 40)}
SAMPLE = {"id": "a", "video": "beach", "sentence": "a dog runs", "moment": [20, 40], "boxes": BOXES}


def read(path: Path, *samples: dict[str, Any], video: object = VIDEO, **options: Any) -> Any:
    """Write and read a file; a field set to ... is left out."""
    cleaned = [{k: v for k, v in s.items() if v is not ...} for s in samples or (SAMPLE,)]
    (path / "mine.json").write_text(json.dumps({"videos": {"beach": video, "other": VIDEO}, "samples": cleaned}))
    return read_annotations("json", path, "mine", **options)


FAULTS = [
    ({"id": ...}, "id: not an id"),
    ({"id": True}, "id: not an id"),
    ({"video": "baech"}, "video: not among the file's videos"),
    ({"sentence": "  "}, "sentence: not a text"),
    ({"sentance": "a dog"}, "sentance: unknown key"),
    ({"type": 3}, "type: not a text"),
    ({"segment": [0, 101]}, "segment: ends after the video"),
    ({"segment": [5, 5]}, "segment: not a span"),
    ({"segment": {"begin": 0}}, "segment: not a list"),
    ({"segment": [0, 39]}, "moment: not inside the segment"),
    ({"moment": ...}, "moment: missing"),
    ({"moment": [20]}, "moment: not a span"),
    ({"moment": [20.0, 40]}, "moment: not a span"),
    ({"moment": [40, 20]}, "moment: not a span"),
    ({"moment": [21, 22]}, "moment: no sampled frame falls into it"),
    ({"target": 7}, "target: not a text"),
    ({"boxes": ...}, "boxes: missing"),
    ({"boxes": [[1, 2, 3, 4]]}, "boxes: not an object"),
    ({"boxes": {}}, "boxes: target sample a has no box in 10 of 10 sampled frames"),
    ({"boxes": {"20": [0, 0, 9, 9], "39": [0, 0, 9, 9]}}, "has no box in 9 of 10 sampled frames"),
    ({"boxes": {"20": [0, 0, 9]}}, "boxes[20]: not a box"),
    ({"boxes": {"20": [0, 0, 9, float("inf")]}}, "boxes[20]: a coordinate that is no number"),
    ({"boxes": {**BOXES, "20": [9, 0, 9, 9]}}, "boxes: a box without area"),
    ({"boxes": {"first": [0, 0, 9, 9]}}, "boxes.first: not a frame number"),
    ({"boxes": {"020": [0, 0, 9, 9]}}, "boxes.020: not a frame number"),
    ({"boxes": {"-1": [0, 0, 9, 9]}}, "boxes.-1: not a frame number"),
    ({"interpolate": 1}, "interpolate: neither true nor false"),
]


@pytest.mark.parametrize(("fields", "complaint"), FAULTS)
def test_a_faulty_sample_is_named_by_file_index_and_field(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    samples = ({**SAMPLE, "id": 0}, {**SAMPLE, **fields})
    with pytest.raises(AnnotationError, match=re.escape(complaint)) as caught:
        read(tmp_path, *samples)
    assert caught.value.record == 1
    kept = read(tmp_path, *samples, on_bad_record="skip")
    assert [s.sample_id for s in kept.samples] == [0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"file": ""}, "videos.beach.file: not a text"),
        ({"fps": 4}, "videos.beach.fps: the video has fewer frames per second"),
        ({"fps": False}, "videos.beach.fps: not such a number"),
        ({"frame_count": 30}, "segment: ends after the video"),
        ({"heigth": 120}, "videos.beach.heigth: unknown key"),
    ],
)
def test_a_faulty_video_is_named_with_the_sample_that_needs_it(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(AnnotationError, match=re.escape(f"record 0, {complaint}")):
        read(tmp_path, {**SAMPLE, "segment": [0, 100]}, video={**VIDEO, **fields})


def test_a_misspelt_key_or_video_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, {**SAMPLE, "sentance": "a dog"})
    assert caught.value.facts["hint"] == "did you mean 'sentence'?"
    with pytest.raises(AnnotationError) as caught:
        read(tmp_path, {**SAMPLE, "video": "baech"})
    assert caught.value.facts["hint"] == "did you mean 'beach'?"


def test_ids_are_distinct_even_as_text(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="record 1, id: occurs twice"):
        read(tmp_path, {**SAMPLE, "id": 1}, {**SAMPLE, "id": "1"})


def test_one_target_cannot_be_in_two_places(tmp_path: Path) -> None:
    named, moved = {**SAMPLE, "target": "dog"}, {**BOXES, "30": [0, 0, 9, 9]}
    with pytest.raises(AnnotationError, match="record 1, target: 'dog' has other boxes in sample a"):
        read(tmp_path, named, {**named, "id": "b", "boxes": moved})
    same = read(tmp_path, named, {**named, "id": "b"}, {**named, "id": "c", "video": "other", "boxes": moved})
    assert {s.target_id for s in same.samples} == {"dog"}
    unnamed = read(tmp_path, SAMPLE, {**SAMPLE, "id": "b", "boxes": moved})
    assert len({s.target_id for s in unnamed.samples}) == 2


def test_what_is_left_out_has_its_documented_value(tmp_path: Path) -> None:
    (sample,) = read(tmp_path).samples
    assert (sample.qtype, sample.segment, sample.moment, sample.split) == ("all", (0, 100), (20, 40), "mine")
    assert sample.video.path == "trips/beach.mp4"
    assert (sample.video.video_id, sample.video.fps, sample.baseline_shift) == ("beach", 10.0, 0)
    np.testing.assert_array_equal(sample.boxes, list(BOXES.values()))
    (full,) = read(tmp_path, {**SAMPLE, "type": "declarative", "segment": [10, 50]}).samples
    assert (full.qtype, full.segment) == ("declarative", (10, 50))


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True),
    corners=st.lists(st.integers(0, 50), min_size=6, max_size=6),
    begin=st.integers(0, 98),
    length=st.integers(1, 100),
)
def test_key_frames_are_joined_by_straight_lines_and_never_extended(
    keys: list[int], corners: list[int], begin: int, length: int
) -> None:
    boxes = {str(f): [x, x + 1, x + 30, x + 41] for f, x in zip(keys, corners, strict=False)}
    end = min(100, begin + length)
    sample = {**SAMPLE, "moment": [begin, end], "boxes": boxes, "interpolate": True}
    with tempfile.TemporaryDirectory() as here:
        found = read(Path(here), sample, on_bad_record="skip", sampling=Sampling(fps=10))
    needed = (max(begin, min(keys)), min(end, max(keys) + 1))
    if needed != (begin, end):
        assert "has no box" in found.dropped[0].message
        return
    track = found.samples[0].boxes
    for frame in range(begin, end):
        before = max(k for k in keys if k <= frame)
        after = min(k for k in keys if k >= frame)
        share = (frame - before) / (after - before) if after > before else 0
        expected = np.array(boxes[str(before)]) * (1 - share) + np.array(boxes[str(after)]) * share
        np.testing.assert_allclose(track[frame - begin], expected, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["id", "video", "sentence", "type", "segment", "moment", "target", "boxes", "interpolate"]),
    st.sampled_from([None, True, -1, 0, 3.5, "", "x", [], {}, [[]], [0, 1], [None, 1], {"5": [0] * 4}, 10**30]),
    st.booleans(),
)
def test_junk_in_any_field_is_either_harmless_or_an_annotation_error(
    field: str, junk: object, for_scoring: bool
) -> None:
    with tempfile.TemporaryDirectory() as here, suppress(AnnotationError):
        read(Path(here), {**SAMPLE, field: junk}, for_scoring=for_scoring)


@pytest.mark.parametrize("content", ["[]", '{"videos": {}}', '{"samples": []}', '{"videos": [], "samples": []}'])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(AnnotationError, match=r"mine\.json"):
        read_annotations("json", tmp_path, "mine")


def test_any_name_is_a_split_and_the_usual_ones_come_first(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("holiday", "test", "train"):
        (tmp_path / "annotations" / f"{split}.json").write_text('{"videos": {}, "samples": []}')
    assert find_splits("json", tmp_path) == ["train", "test", "holiday"]
    assert read_annotations("json", tmp_path, "holiday").samples == []
    assert read_annotations("json", tmp_path / "annotations" / "holiday.json", "train").split == "train"
    with pytest.raises(UsageError, match="no annotations of split 'hoilday'") as caught:
        read_annotations("json", tmp_path, "hoilday")
    assert caught.value.facts["hint"] == "holiday?"


def test_the_example_in_the_documentation_is_read_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "train.json").write_text(example)
    (sample,) = read_annotations("json", tmp_path, "train").samples
    assert np.isfinite(sample.boxes).all()
    assert sample.boxes[150 - 120].tolist() == [432.5, 305, 545, 397.5]
