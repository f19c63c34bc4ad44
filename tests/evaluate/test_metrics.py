"""Scores: equal to the recorded reference, right by hand, and bounded whatever is predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample, Tube, Video
from stvg.errors import AnnotationError, PredictionError, UsageError
from stvg.evaluate.metrics import METRICS, SampleScore, box_iou, score, score_sample, span_iou
from stvg.requested import PROTOCOLS

BOX = [0.0, 0.0, 10.0, 10.0]
LEFT_HALF = [0.0, 0.0, 5.0, 10.0]
ELSEWHERE = [50.0, 50.0, 60.0, 60.0]


def a_sample(
    moment: tuple[int, int] = (4, 12),
    boxes: Any = BOX,
    *,
    sample_id: int | str = 0,
    fps: float = 10.0,
    segment: tuple[int, int] = (0, 20),
    qtype: str = "all",
    shift: int = 0,
) -> Sample:
    """At 5 of its 10 frames a second, the clip's slots are frames 0, 2, … 18."""
    rows = np.broadcast_to(np.asarray(boxes, dtype=float), (moment[1] - moment[0], 4)).copy()
    video = Video("v", "v.mp4", 100, 100, fps, max(segment[1], moment[1]))
    return Sample(sample_id, video, "a sentence", qtype, "test", segment, moment, rows, baseline_shift=shift)


def a_tube(start: float, end: float, boxes: Any = BOX, frames: Any = range(20), sample_id: int | str = 0) -> Tube:
    frames = np.array(list(frames), dtype=np.int64)
    return Tube(sample_id, start, end, frames, np.broadcast_to(np.asarray(boxes, dtype=float), (len(frames), 4)).copy())


def scored(sample: Sample, tube: Tube, protocol: str = "tubedetr") -> tuple[float, float, float]:
    result = score_sample(sample, tube, protocol, Sampling())
    return result.tIoU, result.vIoU, result.gt_vIoU


# --- the recorded reference -------------------------------------------------------------------------------------------


@cache
def vidstg_samples(golden: Path) -> list[Sample]:
    return list(_vidstg_samples(golden / "vidstg"))


def _vidstg_samples(folder: Path) -> Iterator[Sample]:
    files = {path.stem: path for path in folder.glob("vidor/validation/*/*.json")}
    number = 0
    for record in json.loads((folder / "test_annotations.json").read_text()):
        frames = json.loads(files[record["vid"]].read_text())["trajectories"]
        size = record["width"], record["height"], record["fps"], record["frame_count"]
        segment = tuple(record["used_segment"][k] for k in ("begin_fid", "end_fid"))
        moment = tuple(record["temporal_gt"][k] for k in ("begin_fid", "end_fid"))
        for field, qtype in (("questions", "interrogative"), ("captions", "declarative")):
            for said in record.get(field, []):
                boxes = np.full((moment[1] - moment[0], 4), np.nan)
                for row, frame in enumerate(frames[slice(*moment)]):
                    for entry in frame:
                        if entry["tid"] == said["target_id"]:
                            boxes[row] = [entry["bbox"][k] for k in ("xmin", "ymin", "xmax", "ymax")]
                video = Video(record["vid"], f"{record['vid']}.mp4", *size)
                yield Sample(number, video, said["description"], qtype, "test", segment, moment, boxes)
                number += 1


@cache
def hcstvg_samples(path: Path) -> list[Sample]:
    samples = []
    for name, record in json.loads(path.read_text()).items():
        x, y, w, h = np.array(record["bbox"], dtype=float).T
        start, count = record["st_frame"] - 1, record["img_num"]
        height, width = record["img_size"][:2] if "img_size" in record else (record["height"], record["width"])
        video = Video(name, name, width, height, count / 20, count)
        moment, boxes = (start, start + len(x)), np.stack([x, y, x + w, y + h], axis=-1)
        samples.append(Sample(name, video, "", "all", "test", (0, count - 1), moment, boxes, baseline_shift=1))
    return samples


def recorded(shared: Path, dataset: str, name: str) -> tuple[dict[str, Any], list[Sample], str]:
    golden = shared / "golden"
    blocks = {b["name"]: b for b in json.loads((golden / f"metrics_{dataset}.json").read_text())["blocks"]}
    block = blocks[name]
    if dataset == "vidstg":
        return block, vidstg_samples(golden), "sample_id"
    return block, hcstvg_samples(golden / block["annotations_file"]), "video_key"


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("vidstg", "default"),
        ("vidstg", "fps2_max64"),
        ("hcstvg", "v1_default"),
        ("hcstvg", "v1_fps3_max40"),
        ("hcstvg", "v2_default"),
        ("hcstvg", "v2_fps3_max40"),
    ],
)
def test_scores_equal_the_recorded_reference(shared: Path, dataset: str, name: str) -> None:
    block, samples, key = recorded(shared, dataset, name)
    tubes = {
        row[key]: Tube(
            row[key], *row["pred_sted"], np.array(row["frame_ids"]), np.array(row["pred_boxes"], dtype=float)
        )
        for row in block["samples"]
    }
    sampling = Sampling(block["fps"], block["video_max_len"])
    scores = score(samples, tubes, sampling=sampling)
    assert scores.scored == len(block["samples"]) == len(samples)
    for mine, row in zip(scores.samples, block["samples"], strict=True):
        expected = row["expected"]
        assert mine.sample_id == row[key]
        assert (mine.tIoU, mine.vIoU, mine.gt_vIoU) == pytest.approx(
            (expected["tiou"], expected["viou"], expected["gt_viou"]), abs=1e-9, rel=0
        )
        assert (mine.vIoU > 0.3, mine.vIoU > 0.5) == (expected["viou@0.3"], expected["viou@0.5"])
    names = {"m_tIoU": "tiou", "m_vIoU": "viou", "gt_vIoU": "gt_viou"}
    for group, means in scores.groups.items():
        prefix = "" if group == "all" else f"{group}_"
        for metric, mean in means.items():
            theirs = prefix + names.get(metric, metric.lower())
            assert mean == pytest.approx(block["summary"][theirs], abs=1e-9, rel=0), theirs
    assert len(block["summary"]) == sum(map(len, scores.groups.values()))


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_each_protocol_counts_the_frames_it_says() -> None:
    sample, tube = a_sample((4, 12)), a_tube(7, 15, LEFT_HALF)
    # slots in both: 8, 10; slots in the hull [4, 15): 4, 6, 8, 10, 12, 14
    assert scored(sample, tube, "tubedetr") == pytest.approx((5 / 11, 2 * 0.5 / 6, 0.5))
    # frames in both: 7 … 11; frames in the hull: 11
    assert scored(sample, tube, "dense") == pytest.approx((5 / 11, 5 * 0.5 / 11, 0.5))
    assert scored(sample, tube, "hcstvg_official") == pytest.approx((5 / 11, 5 * 0.5 / 11, 0.5))


def test_thinning_to_max_frames_changes_which_frames_are_scored() -> None:
    sample, tube = a_sample((4, 12)), a_tube(7, 15, LEFT_HALF)
    thinned = score_sample(sample, tube, "tubedetr", Sampling(5, 5))  # slots 0, 4, 8, 12, 16
    assert thinned.vIoU == pytest.approx(0.5 / 3)  # 8 of 4, 8, 12
    assert score_sample(sample, tube, "dense", Sampling(5, 5)) == score_sample(sample, tube, "dense", Sampling())


def test_only_tubedetr_places_a_moment_later_by_the_baseline_shift() -> None:
    boxes = [ELSEWHERE] * 8
    boxes[1] = BOX  # annotated at source frame 5, read at slot 6 once shifted
    late, plain = a_sample((4, 12), boxes, shift=1), a_sample((4, 12), boxes)
    tube = a_tube(5, 13, BOX)
    assert scored(late, tube, "tubedetr") == pytest.approx((1.0, 1 / 4, 1 / 4))  # slots 6, 8, 10, 12
    assert scored(plain, tube, "tubedetr") == pytest.approx((7 / 9, 0.0, 0.0))
    for protocol in ("dense", "hcstvg_official"):
        assert scored(late, tube, protocol) == scored(plain, tube, protocol) == pytest.approx((7 / 9, 1 / 9, 1 / 8))


def test_only_dense_cuts_boxes_at_zero() -> None:
    sample, tube = a_sample(boxes=[-10.0, 0.0, 10.0, 10.0]), a_tube(4, 12, [0.0, -10.0, 10.0, 10.0])
    assert scored(sample, tube, "dense") == (1.0, 1.0, 1.0)
    for protocol in ("tubedetr", "hcstvg_official"):
        assert scored(sample, tube, protocol)[1:] == pytest.approx((1 / 3, 1 / 3))


def test_a_vIoU_of_exactly_one_half_is_not_above_one_half() -> None:
    sample, tube = a_sample(), a_tube(4, 12, LEFT_HALF)
    for protocol in PROTOCOLS:
        means = score([sample], {0: tube}, protocol=protocol).groups["all"]
        assert means["m_vIoU"] == 0.5
        assert (means["vIoU@0.3"], means["vIoU@0.5"]) == (1.0, 0.0)


def test_the_end_of_a_moment_beyond_its_segment_counts_in_tIoU() -> None:
    assert scored(a_sample((10, 21)), a_tube(10, 20))[0] == pytest.approx(10 / 11)


def test_a_moment_between_two_slots_scores_no_tube() -> None:
    assert scored(a_sample((5, 6)), a_tube(5, 6)) == (1.0, 0.0, 0.0)
    assert scored(a_sample((5, 6)), a_tube(5, 6), "dense") == (1.0, 1.0, 1.0)


def test_a_fractional_moment_is_the_whole_frames_inside_it_unless_tubedetr_reads_it_as_it_is() -> None:
    sample, tube = a_sample((4, 12)), a_tube(6.5, 10.5)
    assert scored(sample, tube, "tubedetr") == (0.5, 0.5, 1.0)  # slots 8, 10 of 4, 6, 8, 10
    assert scored(sample, tube, "dense") == (0.5, 0.5, 1.0)  # frames 7 … 10
    inside_a_frame = a_tube(6.25, 6.75)
    assert scored(sample, inside_a_frame, "tubedetr")[:2] == (0.0625, 0.0)
    assert scored(sample, inside_a_frame, "dense")[:2] == (0.0, 0.0)
    assert scored(sample, a_tube(6.25, 12), "dense")[:2] == (5 / 8, 5 / 8)


def test_means_are_taken_per_group_and_groups_are_never_pooled() -> None:
    samples = [a_sample(sample_id=i, qtype=q) for i, q in enumerate(["interrogative", "declarative", "declarative"])]
    tubes = {0: a_tube(0, 4), 1: a_tube(4, 12, sample_id=1), 2: a_tube(4, 12, LEFT_HALF, sample_id=2)}
    groups = score(samples, tubes).groups
    assert list(groups) == ["declarative", "interrogative"]
    assert groups["declarative"]["m_vIoU"] == 0.75
    assert groups["interrogative"] == pytest.approx(
        dict.fromkeys(METRICS, 0.0) | {"gt_vIoU": 1.0, "gt_vIoU@0.3": 1.0, "gt_vIoU@0.5": 1.0}
    )


def test_json_holds_these_keys_and_no_others() -> None:
    samples = [a_sample(), a_sample(sample_id=1)]
    stored = json.loads(json.dumps(score(samples, {0: a_tube(4, 12), 1: a_tube(4, 12, sample_id=1)}).to_json()))
    row = {"video_id": "v", "sentence": "a sentence", "qtype": "all", "tIoU": 1.0, "vIoU": 1.0, "gt_vIoU": 1.0}
    intervals = stored.pop("intervals")["all"]
    assert intervals == dict.fromkeys(METRICS), "one video says nothing of others"
    assert stored == {
        "protocol": "tubedetr",
        "fps": 5.0,
        "max_frames": 100,
        "scored": 2,
        "missing": 0,
        "groups": {"all": dict.fromkeys(METRICS, 1.0)},
        "samples": [{"sample_id": 0, **row}, {"sample_id": 1, **row}],
    }


# --- any prediction ---------------------------------------------------------------------------------------------------

coordinates = st.floats(-30, 130, allow_subnormal=False)
frame_numbers = st.floats(-40, 80, allow_subnormal=False) | st.integers(-40, 80)


@st.composite
def some_boxes(draw: st.DrawFn, count: int, smallest: float = 0.0) -> np.ndarray:
    corners = draw(st.lists(st.tuples(coordinates, coordinates), min_size=count, max_size=count))
    sides = st.floats(smallest, 60)
    sizes = draw(st.lists(st.tuples(sides, sides), min_size=count, max_size=count))
    first = np.array(corners, dtype=float).reshape(count, 2)
    return np.concatenate([first, first + np.array(sizes, dtype=float).reshape(count, 2)], axis=1)


@st.composite
def some_samples(draw: st.DrawFn, smallest: float = 0.0) -> Sample:
    start = draw(st.integers(0, 38))
    end = draw(st.integers(start + 1, 41))
    boxes = draw(some_boxes(end - start, smallest))
    fps = draw(st.sampled_from([5.0, 10.0, 23.976, 29.97]))
    return a_sample((start, end), boxes, segment=(0, 40), fps=fps, shift=draw(st.integers(0, 1)))


@st.composite
def some_tubes(draw: st.DrawFn) -> Tube:
    frames = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=6)))
    return a_tube(draw(frame_numbers), draw(frame_numbers), draw(some_boxes(len(frames))), frames)


@given(some_samples(), some_tubes(), st.sampled_from(PROTOCOLS))
def test_scores_lie_between_0_and_1_whatever_is_predicted(sample: Sample, tube: Tube, protocol: str) -> None:
    for value in scored(sample, tube, protocol):
        assert 0 <= value <= 1


@given(some_samples(), some_tubes())
def test_dense_vIoU_never_exceeds_dense_tIoU(sample: Sample, tube: Tube) -> None:
    for protocol in ("dense", "hcstvg_official"):
        tIoU, vIoU, _ = scored(sample, tube, protocol)
        assert vIoU <= tIoU


@given(some_samples(), some_samples())
def test_dense_scores_stay_when_annotation_and_prediction_change_places(a: Sample, b: Sample) -> None:
    def as_tube(sample: Sample) -> Tube:
        return a_tube(*sample.moment, sample.boxes, range(*sample.moment))

    assert scored(a, as_tube(b), "dense")[:2] == pytest.approx(scored(b, as_tube(a), "dense")[:2], abs=1e-12)


@given(some_samples(smallest=1.0), st.sampled_from(PROTOCOLS))
def test_a_perfect_prediction_scores_1_wherever_there_is_a_frame_to_score(sample: Sample, protocol: str) -> None:
    shift = sample.baseline_shift if protocol == "tubedetr" else 0
    start, end = sample.moment[0] + shift, sample.moment[1] + shift
    boxes = sample.boxes + 40  # nothing left of the picture, so that dense cuts no box away
    sample = a_sample(sample.moment, boxes, segment=sample.segment, fps=sample.video.fps, shift=sample.baseline_shift)
    slots = sample.frames(Sampling())
    some = 1.0 if protocol != "tubedetr" or ((slots >= start) & (slots < end)).any() else 0.0
    assert scored(sample, a_tube(start, end, boxes, range(start, end)), protocol) == (1.0, some, some)


@given(some_samples(), some_tubes(), st.sampled_from(PROTOCOLS), st.floats(0, 30), st.floats(0, 30), st.booleans())
def test_moments_that_are_apart_or_only_touch_score_0(
    sample: Sample, tube: Tube, protocol: str, gap: float, length: float, before: bool
) -> None:
    start, end = (m + (sample.baseline_shift if protocol == "tubedetr" else 0) for m in sample.moment)
    moment = (start - gap - length, start - gap) if before else (end + gap, end + gap + length)
    tube = Tube(0, *moment, tube.frames, tube.boxes)
    assert scored(sample, tube, protocol)[:2] == (0.0, 0.0)


@given(some_samples(), some_tubes(), st.sampled_from(PROTOCOLS))
def test_an_empty_or_inverted_moment_scores_0_and_leaves_gt_vIoU(sample: Sample, tube: Tube, protocol: str) -> None:
    first, last = sorted((tube.start, tube.end))
    inverted = Tube(0, last, first, tube.frames, tube.boxes)
    assert scored(sample, inverted, protocol) == (0.0, 0.0, scored(sample, tube, protocol)[2])


@given(some_boxes(5), some_boxes(5))
def test_box_iou_is_symmetric_and_1_for_a_box_with_itself(a: np.ndarray, b: np.ndarray) -> None:
    assert (box_iou(a, b) == box_iou(b, a)).all()
    area = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    assert (box_iou(a, a) == (area > 0)).all()


@given(st.tuples(frame_numbers, frame_numbers), st.tuples(frame_numbers, frame_numbers))
def test_span_iou_is_symmetric(a: tuple[float, float], b: tuple[float, float]) -> None:
    assert span_iou(a, b) == pytest.approx(span_iou(b, a))
    assert span_iou(a, (a[1], a[1] + 5)) == 0


def test_a_frame_without_a_predicted_box_is_read_between_its_neighbours_and_held_outside() -> None:
    moving = np.arange(20)[:, None] * [1.0, 0, 1, 0] + BOX
    sample = a_sample((4, 12), moving[4:12])
    for protocol in PROTOCOLS:
        assert scored(sample, a_tube(4, 12, moving[[4, 11]], [4, 11]), protocol) == pytest.approx((1.0, 1.0, 1.0))
    held = scored(sample, a_tube(4, 12, moving[[7]], [7]), "dense")
    overlap = 10 - abs(np.arange(4, 12) - 7)
    assert held == pytest.approx((1.0, *[(overlap / (20 - overlap)).mean()] * 2))


def test_coordinates_and_moments_of_any_size_cost_score_and_nothing_else() -> None:
    huge = a_tube(-1e308, 1e308, [-1e308, -1e308, 1e308, 1e308])
    for protocol in PROTOCOLS:
        assert scored(a_sample(), huge, protocol) == pytest.approx((0.0, 0.0, 0.0))


# --- faults -----------------------------------------------------------------------------------------------------------


def test_missing_predictions_are_an_error_that_counts_and_names_them() -> None:
    samples = [a_sample(sample_id=i) for i in range(9)]
    with pytest.raises(PredictionError) as caught:
        score(samples, {3: a_tube(4, 12, sample_id=3)})
    text = str(caught.value)
    assert "8 of 9 samples have no prediction" in text
    assert "none for 0, 1, 2, 4, 5, and 3 more" in text
    assert "nothing was scored" in text


def test_allowed_missing_samples_are_counted_and_left_out_of_the_means() -> None:
    samples = [a_sample(sample_id=i) for i in range(4)]
    scores = score(samples, {3: a_tube(4, 12, sample_id=3)}, allow_missing=True)
    assert (scores.scored, scores.missing, len(scores.samples)) == (1, [0, 1, 2], 1)
    assert scores.groups["all"]["m_vIoU"] == 1.0
    assert scores.to_json()["missing"] == 3


def test_hcstvg_official_counts_an_allowed_missing_video_as_0() -> None:
    samples = [a_sample(sample_id=name) for name in ("a.mp4", "b.mp4")]
    tubes = {"b.mp4": a_tube(4, 12, sample_id="b.mp4")}
    with pytest.raises(PredictionError):
        score(samples, tubes, protocol="hcstvg_official")
    scores = score(samples, tubes, protocol="hcstvg_official", allow_missing=True)
    assert (scores.scored, scores.missing) == (1, ["a.mp4"])
    assert scores.samples[0] == SampleScore("a.mp4", "v", "a sentence", "all", 0.0, 0.0, 0.0)
    assert scores.groups["all"]["m_tIoU"] == 0.5


def test_predictions_for_no_sample_at_all_are_an_error_even_when_missing_ones_are_allowed() -> None:
    with pytest.raises(PredictionError, match="1 of 1 samples have no prediction"):
        score([a_sample()], {}, allow_missing=True)


@pytest.mark.parametrize(
    ("ids", "given_id", "hint"),
    [
        ([16, 17], "17", 'ids of this split are a number: write 17, not "17"'),
        (["16", "17"], 17, 'ids of this split are a string: write "17", not 17'),
        (["55_vfjywN5CN0Y.mp4", "other.mkv"], "55_vfjywN5CN0Y", 'did you mean "55_vfjywN5CN0Y.mp4"?'),
        ([0, 1], 99, "made for this dataset and split"),
    ],
)
def test_unknown_ids_are_an_error_with_the_likely_reason(ids: list[Any], given_id: Any, hint: str) -> None:
    samples = [a_sample(sample_id=i) for i in ids]
    with pytest.raises(PredictionError) as caught:
        score(samples, {given_id: a_tube(4, 12)}, allow_missing=True)
    assert "1 of 1 predictions are for samples that this split does not have" in str(caught.value)
    assert hint in str(caught.value)


def test_a_scored_frame_without_an_annotated_box_is_an_error_that_names_it() -> None:
    sample = a_sample((4, 12), sample_id=7)
    sample.boxes[3] = np.nan  # frame 7: between two slots
    assert scored(sample, a_tube(4, 12)) == (1.0, 1.0, 1.0)
    for protocol in ("dense", "hcstvg_official"):
        with pytest.raises(AnnotationError, match=r"record 7, boxes: .* 1 of 8 annotated frames") as caught:
            scored(sample, a_tube(4, 12), protocol)
        assert "none at frames 7" in str(caught.value)


def test_an_unknown_protocol_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="tubedetr, dense, hcstvg_official"):
        score([a_sample()], {0: a_tube(4, 12)}, protocol="sparse")
