"""Samples, views and recipes: pixels to fractions and back, and a fingerprint that forgets nothing."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.schema import MAX_SIDE, Recipe, Sample, Video, View, resized
from stvg.errors import AnnotationError, CacheError, StvgError, VideoError

RECIPE = Recipe("json", "a" * 64, "tiny", "b" * 64, "tiny", "c" * 64, (32, 64, 128), (4, 8, 16), 64)


def test_evaluation_geometry_and_target_boxes_equal_the_recorded_ones(shared):
    cases = json.loads((shared / "golden/spatial.json").read_text())["cases"]
    assert cases
    for case in cases:
        view = View.evaluation(case["width"], case["height"], case["resolution"], MAX_SIDE[case["resolution"]])
        assert [view.height, view.width] == case["resized_hw"]
        boxes = np.array(case["boxes_xywh"], dtype=float)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(view.to_fractions(boxes), case["target_boxes_cxcywh"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(4000, 16, (107, 1)), (16, 4000, (1, 107)), (9000, 1, (107, 1))]
)
def test_a_strip_is_at_least_a_pixel_wide_and_no_longer_than_the_cap(width, height, expected):
    view = View.evaluation(width, height, 64, 107)
    assert (view.width, view.height) == expected
    boxes = np.array([[0.0, 0.0, width / 2, height]])
    np.testing.assert_allclose(view.to_fractions(boxes), [[0.25, 0.5, 0.5, 1]])
    assert min(resized(width, height, 40)) >= 1


def test_fractions_become_the_recorded_pixels_held_inside_the_picture(shared):
    golden = np.load(shared / "golden/postprocess.npz")
    outside = 0
    for box, (height, width), expected in zip(
        *(golden[f"boxes/{k}"] for k in ("cxcywh", "size_hw", "xyxy")), strict=True
    ):
        limit = np.array([width, height, width, height])
        outside += bool(((expected < 0) | (expected > limit)).any())
        found = View(int(width), int(height), 100, 80).to_pixels(box)
        np.testing.assert_allclose(found, np.clip(expected, 0, limit), rtol=0, atol=1e-3)
    assert 0 < outside < len(golden["boxes/xyxy"])


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from(sorted(MAX_SIDE)), st.data())
def test_pixels_to_fractions_and_back_is_the_identity_inside_the_picture(width, height, resolution, data):
    view = View.evaluation(width, height, resolution, MAX_SIDE[resolution])
    # The short side is rounded to a whole pixel first, so the long side can be off by half the aspect ratio.
    assert max(view.width, view.height) <= MAX_SIDE[resolution] + 1 + max(width, height) / min(width, height) / 2
    xs = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    ys = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    box = np.array([xs[0], ys[0], xs[1], ys[1]])
    np.testing.assert_allclose(view.to_pixels(view.to_fractions(box)), box, atol=1e-6)


def test_boxes_outside_the_moment_are_absent_not_zero():
    video = Video("v", "v.mp4", 100, 80, 10.0, 50)
    boxes = np.arange(20, dtype=float).reshape(5, 4)
    sample = Sample(0, video, "a dog runs", "all", "train", (0, 50), (10, 15), boxes)
    found = sample.boxes_at(np.array([9, 10, 14, 15]))
    assert np.isnan(found[[0, 3]]).all()
    assert found[1:3].tolist() == [boxes[0].tolist(), boxes[4].tolist()]


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_changing_any_field_makes_the_old_cache_stale_and_the_message_names_it(name):
    old = getattr(RECIPE, name)
    changed = replace(
        RECIPE, **{name: (*old, "x") if isinstance(old, tuple) else old + (1 if isinstance(old, int | float) else "x")}
    )
    assert changed.fingerprint != RECIPE.fingerprint
    with pytest.raises(CacheError, match=name):
        RECIPE.require_equal(changed, "cache/")


def test_a_recipe_survives_json():
    stored = json.loads(json.dumps(RECIPE.to_json()))
    assert Recipe.from_json(stored) == RECIPE
    assert Recipe.from_json(stored).fingerprint == RECIPE.fingerprint
    with pytest.raises(CacheError, match="another format"):
        Recipe.from_json({**stored, "format_version": 99})
    with pytest.raises(CacheError, match="cannot be read"):
        Recipe.from_json({**stored, "colour": "blue"})


@pytest.mark.parametrize(
    "error",
    [
        VideoError("x.mp4 ends early", expected="613 frames", hint="fetch it again"),
        AnnotationError("f.json", 3, "bbox", "no boxes"),
    ],
)
def test_errors_keep_their_facts_between_processes(error):
    import pickle

    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, StvgError)
    assert str(again) == str(error)
    assert type(again) is type(error)
