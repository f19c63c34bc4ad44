"""STCAT's sampled frames, its two passes and what is decided from them, recorded and ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.sampling import grid_frames, interpolate_boxes, moment_slots, spread
from stvg.cache.view import View
from stvg.heads.decision import Window
from stvg.heads.stcat.decision import explain_passes, join_passes, passes_of

from .recorded import described, tensors


class Sample:
    sample_id = 7


def windows_of(case: dict[str, Any], folder: Path) -> list[Window]:
    """The recorded outputs, divided into the passes they are said to have come from."""
    every = tensors(folder, "stcat_small_io.safetensors")
    boxes, sted = every[f"eval_{case['name']}/pred_boxes"], every[f"eval_{case['name']}/pred_sted"]
    height, width = case["original_size_hw"]
    view, frames = View.evaluation(width, height, 448, 720), np.array(case["frame_ids"])
    found = []
    for first in range(2):
        of_pass = np.arange(len(frames))[first::2]
        T = len(of_pass)
        span, looks = sted.view(-1, 2)[of_pass][None].float(), torch.full((1, T, T), 1 / T)
        found.append(Window(Sample(), view, frames[of_pass], boxes[of_pass][None].float(), span, None, looks))
    return found


def test_moments_and_boxes_of_two_passes_equal_the_recorded_ones(shared: Path) -> None:
    folder = shared / "golden"
    every = tensors(folder, "stcat_small_io.safetensors")
    cases = described(folder)["evaluation"]
    for case in cases:
        windows, expected = windows_of(case, folder), case["expected"]
        for half, window in zip(("moment_even", "moment_odd"), windows, strict=True):
            alone = join_passes([window])
            assert [alone.start, alone.end] == expected[half], case["name"]
        tube = join_passes(windows)
        assert [tube.start, tube.end] == expected["moment"], case["name"]
        first, last = expected["box_frames"]
        ours = interpolate_boxes(tube.frames, tube.boxes, np.arange(first, last + 1))
        np.testing.assert_allclose(ours, every[f"eval_{case['name']}/expected_boxes"], rtol=0, atol=1e-3)
        assert (tube.frames == case["frame_ids"]).all()
    assert len(cases) == 7


def test_the_recorded_scores_are_those_of_the_dense_protocol_with_an_exclusive_last_frame(shared: Path) -> None:
    """The published evaluator reads the inclusive last annotated frame as excluded."""
    folder = shared / "golden"
    every = tensors(folder, "stcat_small_io.safetensors")
    for case in described(folder)["evaluation"]:
        tube, (g0, g1) = join_passes(windows_of(case, folder)), case["gt_moment_inclusive"]
        annotated = every[f"eval_{case['name']}/gt_boxes"].double().numpy()
        shared_span = (max(g0, tube.start), min(g1, tube.end))
        inside = max(0, shared_span[1] - shared_span[0])
        tiou = inside / ((g1 - g0) + (tube.end - tube.start) - inside) if inside else 0.0
        assert tiou == pytest.approx(case["expected"]["tiou"], abs=1e-6), case["name"]
        wanted = np.arange(g0, g1 + 1)
        overlap = iou(interpolate_boxes(tube.frames, tube.boxes, wanted), annotated)
        hull = max(1, max(g1, tube.end) - min(g0, tube.start))
        within = (wanted >= shared_span[0]) & (wanted < shared_span[1])
        assert overlap[within].sum() / hull == pytest.approx(case["expected"]["viou"], abs=1e-6), case["name"]
        assert overlap.mean() == pytest.approx(case["expected"]["gt_viou"], abs=1e-6), case["name"]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared_area = np.clip(high - low, 0, None).prod(1)
    return shared_area / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared_area)


def test_sampled_frames_and_moments_equal_the_recorded_ones(shared: Path) -> None:
    """From native frames: VidSTG's are spread evenly; HC-STVG's grid has the clip's last frame, too."""
    cases = described(shared / "golden")["sampling"]
    for case in cases:
        if case["dataset"] == "vidstg":
            first, last = case["segment"]
            frames = spread(np.arange(first, last + 1), case["frames_wanted"])
        else:
            end = case["img_num"] - 1
            frames = grid_frames(0, end, min(1.0, case["fps"] / (case["img_num"] / 20)))
            frames = np.union1d(frames, [end - 1])
        assert frames.tolist() == case["frame_ids"], case
        start, end = case["moment_inclusive"]
        ours = moment_slots(frames, (start, end + 1))
        assert (None if ours is None else list(ours)) == case["moment_index"], case
    assert len(cases) == 38


@given(st.integers(1, 400), st.integers(1, 130))
def test_spread_frames_keep_both_ends_and_differ(n: int, count: int) -> None:
    found = spread(np.arange(n), count)
    assert len(found) == min(n, count)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert found[-1] == n - 1 or count == 1


def test_windows_of_one_pass_are_one_decision(shared: Path) -> None:
    """A pass that is read in two windows gives what it gives in one."""
    folder = shared / "golden"
    case = next(c for c in described(folder)["evaluation"] if c["name"] == "vidstg_short")
    whole = windows_of(case, folder)
    parts = [replace(w, frames=w.frames[cut], boxes=w.boxes[:, cut], span=w.span[:, cut]) for w in whole for cut in (slice(0, 5), slice(5, None))]  # fmt: skip  # noqa: E501
    assert [len(p) for p in passes_of(parts)] == [2, 2]
    one, other = join_passes(whole), join_passes(parts)
    assert (one.start, one.end) == (other.start, other.end)
    np.testing.assert_array_equal(one.boxes, other.boxes)


def test_evidence_of_two_passes_is_that_of_their_slots_in_order(shared: Path) -> None:
    folder = shared / "golden"
    case = next(c for c in described(folder)["evaluation"] if c["name"] == "vidstg_end")
    reading = explain_passes(windows_of(case, folder))
    (attention,) = reading.attention
    assert attention.shape == (21, 21)
    np.testing.assert_allclose(attention.sum(1), 1, atol=1e-6)
    assert not attention[0::2, 1::2].any()
    assert reading.start.sum() == pytest.approx(1)
    assert len(reading.end) == 21
    assert reading.tube.frames.tolist() == case["frame_ids"]
