"""The sampling rule: recorded reference cases, the incremental rule it replaces, and the round trip to slots and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.sampling import (
    Sampling,
    grid_frames,
    interpolate_boxes,
    moment_slots,
    sample_frames,
    sample_many,
    slots_in,
    span_of_slots,
    thin,
    video_grid,
    windows,
)


def incremental(start, end, ratio):
    """The rule as it is usually written: keep a frame when the truncated product exceeds that of the last one kept."""
    frames = [start]
    for frame in range(start + 1, end):
        if int(frame * ratio) > int(frames[-1] * ratio):
            frames.append(frame)
    return frames


spans = st.tuples(st.integers(0, 3000), st.integers(1, 900)).map(lambda s: (s[0], s[0] + s[1]))
rates = st.one_of(
    st.sampled_from([5.0, 10.0, 15.0, 23.976, 24000 / 1001, 24.0, 25.0, 29.97, 30000 / 1001, 30.0, 60.0]),
    st.floats(5.0, 120.0),
)


@given(spans, rates)
def test_the_closed_form_equals_the_incremental_rule(segment, fps):
    assert grid_frames(*segment, 5 / fps).tolist() == incremental(*segment, 5 / fps)


def test_every_recorded_case_is_reproduced(shared):
    cases = json.loads((shared / "golden/sampling.json").read_text())["cases"]
    assert len(cases) > 100
    for case in cases:
        segment, fps = (case.get("start"), case.get("end")), case.get("fps")
        if case["variant"] == "hcstvg":
            segment, fps = (0, case["frame_count"] - 1), case["frame_count"] / 20
        moment = (case["tube_start"], case["tube_end"])
        frames = sample_frames(
            segment if case["use_predicted_moment"] else moment,
            fps,
            Sampling(case["target_fps"], case["video_max_len"]),
        )
        assert frames.tolist() == case["frame_ids"], case.get("note")
        assert frames[slots_in(frames, moment)].tolist() == case["moment_frame_ids"], case.get("note")
        if case["inter_idx"] is not None:
            assert list(moment_slots(frames, moment) or (-100, -100)) == case["inter_idx"], case.get("note")


def test_windows_of_every_recorded_case_are_reproduced(shared):
    cases = json.loads((shared / "golden/sampling.json").read_text())["windows"]
    assert cases
    for case in cases:
        found = [
            (len(piece), video, list(moment_slots(piece, (first, last + 1)) or (-100, -100)))
            for video, (duration, (first, last)) in enumerate(zip(case["durations"], case["inter_idx"], strict=True))
            for piece in windows(np.arange(duration), case["window"])
        ]
        expected = case["expected"]
        assert expected["captions"] == expected["video_ids"]
        assert found == list(zip(expected["durations"], expected["video_ids"], expected["inter_idx"], strict=True))


@given(st.integers(200, 900))
def test_every_hcstvg_clip_of_at_least_200_frames_has_exactly_100_slots(img_num):
    assert len(sample_frames((0, img_num - 1), img_num / 20, Sampling())) == 100


@given(st.lists(spans, min_size=1, max_size=5), rates, st.integers(1, 200))
def test_the_grid_of_a_video_serves_every_clip_of_every_segment(segments, fps, max_frames):
    grid = video_grid(segments, fps, 5.0)
    assert (np.diff(grid) > 0).all()
    for segment in segments:
        assert np.isin(sample_frames(segment, fps, Sampling(5.0, max_frames)), grid).all()


@given(st.integers(1, 500), st.integers(1, 200))
def test_thinning_keeps_the_first_frame_the_order_and_the_wanted_number(n, most):
    kept = thin(np.arange(n), most)
    assert len(kept) == min(n, most)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()


@given(spans, rates, st.data())
def test_slots_to_frames_and_back_is_the_identity(segment, fps, data):
    frames = sample_frames(segment, fps, Sampling())
    first = data.draw(st.integers(0, len(frames) - 1))
    last = data.draw(st.integers(first, len(frames) - 1))
    assert moment_slots(frames, span_of_slots(frames, first, last)) == (first, last)


@given(spans)
def test_a_moment_outside_the_clip_has_no_slots(segment):
    frames = sample_frames(segment, 10.0, Sampling())
    assert moment_slots(frames, (segment[1], segment[1] + 50)) is None


def test_frames_can_be_left_out_but_never_invented():
    with pytest.raises(ValueError, match="has no frames between"):
        grid_frames(0, 100, 1.01)
    with pytest.raises(ValueError, match="reversed"):
        grid_frames(9, 5, 0.5)


def test_interpolation_is_linear_inside_and_constant_outside():
    boxes = np.array([[0, 0, 10, 10], [10, 20, 30, 40]], dtype=float)
    found = interpolate_boxes(np.array([10, 20]), boxes, np.array([0, 10, 15, 20, 99]))
    assert found.tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [5, 10, 20, 25], [10, 20, 30, 40], [10, 20, 30, 40]]


@given(st.lists(st.tuples(spans, rates), min_size=1, max_size=6), st.integers(1, 120), st.booleans())
def test_many_clips_are_sampled_as_each_alone(clips, max_frames, ends):
    sampling = Sampling(5.0, max_frames, ends)
    starts, stops = (np.array([segment[i] for segment, _ in clips]) for i in (0, 1))
    frames, exist = sample_many(starts, stops, np.array([fps for _, fps in clips]), sampling)
    for (segment, fps), of_clip, there in zip(clips, frames, exist, strict=True):
        assert of_clip[there].tolist() == sample_frames(segment, fps, sampling).tolist()


@given(spans, st.floats(6.4, 120.0), st.sampled_from([2, 4, 8]))
def test_the_grid_of_every_second_frame_is_part_of_the_grid(segment, fps, share):
    assert set(grid_frames(*segment, 6.4 / share / fps).tolist()) <= set(grid_frames(*segment, 6.4 / fps).tolist())
