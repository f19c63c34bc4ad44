"""Prediction files: read back exactly as written, and refused with file, line and field when something is wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.schema import Sample, Tube, Video
from stvg.errors import PredictionError
from stvg.evaluate.predictions import read_predictions, write_predictions

GOOD: dict[str, Any] = {"sample_id": 17, "start": 90, "end": 150, "boxes": {"90": [1, 2, 3, 4], "96": [1.5, 2, 3, 4]}}


def a_tube(sample_id: int | str = 17, **changes: Any) -> Tube:
    fields: dict[str, Any] = {
        "start": 90.0,
        "end": 150.0,
        "frames": np.array([90, 96]),
        "boxes": np.array([[1.0, 2, 3, 4], [1.5, 2, 3, 4]]),
    }
    return Tube(sample_id, **(fields | changes))


def same(a: Tube, b: Tube) -> bool:
    numbers = ("sample_id", "start", "end", "score", "query")
    arrays = ("frames", "boxes")
    return all(getattr(a, n) == getattr(b, n) for n in numbers) and all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays
    )


finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def some_tubes(draw: st.DrawFn) -> Tube:
    frames = sorted(draw(st.sets(st.integers(0, 10**9 - 1), min_size=1, max_size=4)))
    boxes = [sorted(draw(st.tuples(finite, finite))) + sorted(draw(st.tuples(finite, finite))) for _ in frames]
    return Tube(
        draw(st.integers(0, 10**6) | st.text(max_size=8)),
        draw(finite),
        draw(finite),
        np.array(frames),
        np.array(boxes)[:, [0, 2, 1, 3]],
        draw(st.none() | finite),
        draw(st.none() | st.integers(0, 24)),
    )


@settings(max_examples=40, deadline=None)  # every example waits for the disk
@given(st.lists(some_tubes(), min_size=1, max_size=4, unique_by=lambda tube: tube.sample_id))
def test_predictions_are_read_back_exactly_as_written(tubes: list[Tube]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        assert write_predictions(path, iter(tubes)) == len(tubes)
        found = read_predictions(path)
    assert list(found) == [tube.sample_id for tube in tubes]
    assert all(same(found[tube.sample_id], tube) for tube in tubes)


def changed(**fields: Any) -> str:
    return json.dumps({name: value for name, value in (GOOD | fields).items() if value != "absent"})


FAULTS = {
    "cut off": ('{"sample_id": 17, "start"', "malformed JSON", "one object per line"),
    "a list around all": ("[", "malformed JSON", "no list around them"),
    "not text": ("\udcff", "malformed JSON", "expected"),
    "nested beyond reason": ("[" * 100_000, "malformed JSON", "expected"),
    "a number alone": ("17", "not a JSON object", "found      17"),
    "no id": (changed(sample_id="absent"), "sample_id: the field is missing", "start, end, boxes"),
    "no start": (changed(start="absent"), "start: the field is missing", "sample_id, end, boxes"),
    "no end": (changed(end="absent"), "end: the field is missing", "sample_id, start, boxes"),
    "no boxes": (changed(boxes="absent"), "boxes: the field is missing", "sample_id, start, end"),
    "fractional id": (changed(sample_id=17.0), "sample_id: not an id", "found      17.0"),
    "truth as id": (changed(sample_id=True), "sample_id: not an id", "an integer or a string"),
    "text as start": (changed(start="90"), "start: not a number", 'found      "90"'),
    "truth as end": (changed(end=True), "end: not a number", "found      true"),
    "null as end": (changed(end=None), "end: not a number", "found      null"),
    "start not a number": (changed(start=float("nan")), "start: not finite", "found      NaN"),
    "endless": (changed(end=float("inf")), "end: not finite", "found      Infinity"),
    "end beyond floats": (changed(end=10**400), "end: not finite", "a finite number"),
    "text as score": (changed(score="high"), "score: not a number", 'found      "high"'),
    "score not a number": (changed(score=float("nan")), "score: not finite", "found      NaN"),
    "fractional query": (changed(query=0.5), "query: not an integer", "found      0.5"),
    "boxes as list": (changed(boxes=[[1, 2, 3, 4]]), "boxes: not an object", "found      [[1, 2, 3, 4]]"),
    "boxes empty": (changed(boxes={}), "boxes: no box at all", "x1, y1, x2, y2"),
    "frame as word": (changed(boxes={"first": [1, 2, 3, 4]}), "boxes: not a frame number", 'found      "first"'),
    "frame fractional": (changed(boxes={"90.0": [1, 2, 3, 4]}), "boxes: not a frame number", 'found      "90.0"'),
    "frame negative": (changed(boxes={"-1": [1, 2, 3, 4]}), "boxes: not a frame number", 'found      "-1"'),
    "frame padded": (changed(boxes={"090": [1, 2, 3, 4]}), "boxes: not a frame number", 'found      "090"'),
    "frame grouped": (changed(boxes={"9_0": [1, 2, 3, 4]}), "boxes: not a frame number", 'found      "9_0"'),
    "frame beyond int64": (changed(boxes={"9" * 20: [1, 2, 3, 4]}), "boxes: not a frame number", "source frames"),
    "three numbers": (changed(boxes={"90": [1, 2, 3]}), "boxes[90]: not a box", "found      [1, 2, 3]"),
    "five numbers": (changed(boxes={"90": [1, 2, 3, 4, 0.9]}), "boxes[90]: not a box", "four numbers"),
    "text in a box": (changed(boxes={"90": [1, 2, 3, "4"]}), "boxes[90]: not a box", '[1, 2, 3, "4"]'),
    "truth in a box": (changed(boxes={"90": [1, 2, 3, True]}), "boxes[90]: not a box", "[1, 2, 3, true]"),
    "null as box": (changed(boxes={"90": None}), "boxes[90]: not a box", "found      null"),
    "NaN in a box": (changed(boxes={"90": [1, 2, 3, float("nan")]}), "boxes[90]: a coordinate is not finite", "NaN"),
    "1e999 in a box": (changed().replace("1.5", "1e999"), "boxes[96]: a coordinate is not finite", "Infinity"),
    "huge in a box": (changed(boxes={"90": [1, 2, 3, 10**400]}), "boxes: a coordinate is not finite", "a huge integer"),
    "x reversed": (changed(boxes={"90": [3, 2, 1, 4]}), "boxes[90]: the box ends before it begins", "x1 <= x2"),
    "y reversed": (changed(boxes={"90": [1, 4, 3, 2]}), "boxes[90]: the box ends before it begins", "y1 <= y2"),
    "frame twice": (changed().replace('"96"', '"90"'), "malformed JSON", "key '90' is given twice"),
    "sample twice": (changed(), "sample_id: sample 17 was predicted before", "lines 1 and 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_file_line_field_and_what_was_found(tmp_path: Path, name: str) -> None:
    line, message, detail = FAULTS[name]
    path = tmp_path / "theirs.jsonl"
    path.write_bytes(f"{changed()}\n\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(PredictionError) as caught:
        read_predictions(path)
    text = str(caught.value)
    assert text.startswith(f"{path}, line 3")
    assert message in text
    assert detail in text
    assert "nothing was scored" in text


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(PredictionError, match="cannot be read"):
        read_predictions(path)
    path.write_text("\n")
    with pytest.raises(PredictionError, match="holds no prediction"):
        read_predictions(path)


def test_frames_are_ascending_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(changed(boxes={"100": [1, 1, 2, 2], "9": [0, 0, 1, 1]}))
    tube = read_predictions(path)[17]
    assert tube.frames.tolist() == [9, 100]
    assert tube.frames.dtype == np.int64
    assert tube.boxes.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]
    assert tube.boxes.dtype == np.float64


def test_other_keys_inverted_moments_and_flat_boxes_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(changed(start=20.5, end=-3, boxes={"0": [5, 5, 5, 5]}, note=[1], score=None, query=None))
    tube = read_predictions(path)[17]
    assert (tube.start, tube.end, tube.score, tube.query) == (20.5, -3.0, None, None)


def test_video_and_sentence_are_written_for_whoever_reads_the_file(tmp_path: Path) -> None:
    video = Video("a.mp4", "a.mp4", 100, 100, 30.0, 600)
    sample = Sample("a.mp4", video, "a man in a café", "all", "test", (0, 599), (90, 150), np.zeros((60, 4)))
    path = tmp_path / "ours.jsonl"
    write_predictions(path, [a_tube("a.mp4", score=0.5, query=2)], {"a.mp4": sample})
    assert path.read_text(encoding="utf-8") == (
        '{"sample_id": "a.mp4", "video": "a.mp4", "sentence": "a man in a café", "start": 90, "end": 150, '
        '"score": 0.5, "query": 2, "boxes": {"90": [1.0, 2.0, 3.0, 4.0], "96": [1.5, 2.0, 3.0, 4.0]}}\n'
    )


def test_a_writer_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [a_tube()])
    before = path.read_bytes()

    def broken() -> Iterator[Tube]:
        yield a_tube(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, broken())
    with pytest.raises(PredictionError, match="sample 2 is not finite"):
        write_predictions(path, [a_tube(1), a_tube(2, end=float("nan"))])
    with pytest.raises(PredictionError, match="sample 3 is not finite"):
        write_predictions(path, [a_tube(3, boxes=np.full((2, 4), np.inf))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
