"""Samples, views and recipes: pixels to fractions and back, and a fingerprint that forgets nothing."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.schema import Level, Recipe, Sample, Text, Video, Visual
from stvg.cache.view import MAX_SIDE, View, resized
from stvg.errors import AnnotationError, CacheError, StvgError, UsageError, VideoError

from ..encoders import levels, text, visual

RECIPE = Recipe(visual(levels((32, 64, 128), (4, 8, 16)), "tiny"), text(64, "tiny"))


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


FIELDS = [f.name for f in fields(Recipe) if f.name not in ("visual", "text")]
FIELDS += [f"visual.{f.name}" for f in fields(Visual)] + [f"text.{f.name}" for f in fields(Text)]
OTHERS = {"keep": "full", "visual.levels": levels((32, 64, 128), (4, 8, 32))}


@pytest.mark.parametrize("name", FIELDS)
def test_changing_any_field_makes_the_old_cache_stale_and_the_message_names_it(name):
    group, _, inner = name.rpartition(".")
    of = getattr(RECIPE, group) if group else RECIPE
    old = getattr(of, inner)
    new = OTHERS.get(name) or (
        (*old, 1.0) if isinstance(old, tuple) else old + (1 if isinstance(old, int | float) else "x")
    )
    part = replace(of, **{inner: new})
    changed = replace(RECIPE, **{group: part}) if group else part
    assert changed.fingerprint != RECIPE.fingerprint
    assert RECIPE.differing(changed).keys() == {name}
    with pytest.raises(CacheError, match=name):
        RECIPE.require_equal(changed, "cache/")


@pytest.mark.parametrize(
    ("names", "keep", "kept"),
    [
        ("a b c", "roi", ("regions", "regions", "maps")),
        ("a b c", "full", ("maps", "maps", "maps")),
        ("a b c", "last", ("none", "none", "maps")),
        *(("only", keep, ("maps",)) for keep in ("roi", "full", "last")),
    ],
)
def test_of_the_last_level_maps_are_kept_always_and_of_the_others_what_was_asked_for(names, keep, kept):
    count = len(names.split())
    recipe = replace(RECIPE, visual=visual(levels((8,) * count, (4,) * count, names)), keep=keep)
    assert recipe.kept == dict(zip(names.split(), kept, strict=True))
    assert [level.name for level in recipe.levels] == [n for n, k in recipe.kept.items() if k != "none"]


@pytest.mark.parametrize("names", ["", "a a", "a_roi", "../a", "a.b", "-"])
def test_levels_whose_names_cannot_be_told_apart_in_a_store_are_refused(names):
    of = tuple(Level(name, 8, 4) for name in names.split())
    with pytest.raises(UsageError, match="cannot be stored"):
        visual(of)
    with pytest.raises(UsageError, match="cannot be stored"):
        visual((Level("a", 0, 4),))


def test_a_cache_of_the_format_before_is_refused_with_the_command_that_makes_a_new_one():
    with pytest.raises(CacheError, match=r"stvg extract --out ANOTHER_FOLDER") as refused:
        Recipe.from_json({"dataset": "json", "backbone": "tiny", "levels": "roi", "format_version": 3})
    assert "format version 4" in str(refused.value)


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
