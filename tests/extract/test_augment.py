"""Random views: inside the table's ranges, never losing a box; boxes, pixels and features go through them alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.arrays import array_name
from stvg.cache.batches.clips import Rendition
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.batches.order import epoch_order, inference_batches, training_batches
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.schema import Video, has_boxes
from stvg.cache.video_unit import video_key
from stvg.cache.view import MAX_SIDE, Crop, View
from stvg.errors import CacheError
from stvg.extract.augment import RANGES, draw_view, ranges, stored_views
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.features import Regions, encode, select_levels
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import read_frames

from ..conftest import extract_synthetic
from ..encoders import further

CPU = torch.device("cpu")


@st.composite
def pictures(draw):
    """A video and some boxes in it."""
    width, height = draw(st.integers(200, 1280)), draw(st.integers(200, 1280))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    corner = rng.random((draw(st.integers(1, 4)), 2)) * [width - 20, height - 20]
    size = 2 + rng.random(corner.shape) * ([width, height] - corner - 2)
    return Video("v", "v.mp4", width, height, 25.0, 100), np.concatenate([corner, corner + size], axis=1)


@settings(max_examples=150, deadline=None)
@given(pictures(), st.sampled_from([64, 224, 320, 352]), st.integers(0, 10_000))
def test_a_drawn_view_stays_in_its_ranges_and_shows_a_part_of_every_box(picture, resolution, seed):
    video, boxes = picture
    view = draw_view(np.random.default_rng(seed), video, resolution, boxes)
    table = ranges(resolution)
    long, short = max(view.width, view.height), min(view.width, view.height)
    rounding = long / short  # the short side of a long picture is rounded, and the long side follows it
    assert long <= MAX_SIDE[resolution] + rounding
    assert short in table.short_sides or long >= MAX_SIDE[resolution] - rounding - 1
    if crop := view.crop:
        assert min(crop.width, crop.height) in table.before_crop
        for cut, side, at in ((crop.cut_width, crop.width, crop.left), (crop.cut_height, crop.height, crop.top)):
            assert min(table.smallest_crop, side) <= cut <= min(side, MAX_SIDE[resolution])
            assert 0 <= at <= side - cut
    assert (view.to_fractions(boxes)[:, 2:] > 0).all()


def test_half_of_the_views_are_cropped_and_all_sizes_come_up():
    rng = np.random.default_rng(0)
    video, boxes = Video("v", "v.mp4", 640, 480, 25.0, 100), np.array([[300.0, 200, 340, 280]])
    views = [draw_view(rng, video, 224, boxes) for _ in range(400)]
    assert 150 < sum(v.crop is not None for v in views) < 250
    assert {min(v.width, v.height) for v in views if v.crop is None} == set(RANGES[224].short_sides)


def test_a_box_that_no_crop_can_keep_leaves_the_picture_whole():
    corners = np.array([[0.0, 0, 1, 1], [639, 479, 640, 480]])
    video = Video("v", "v.mp4", 640, 480, 25.0, 100)
    views = [draw_view(np.random.default_rng(seed), video, 224, corners) for seed in range(40)]
    assert all((v.to_fractions(corners)[:, 2:] > 0).all() for v in views)
    assert any(v.crop is None for v in views)


@settings(max_examples=100, deadline=None)
@given(pictures(), st.integers(0, 10_000))
def test_boxes_inside_a_crop_come_back_from_fractions_unchanged(picture, seed):
    video, boxes = picture
    view = draw_view(np.random.default_rng(seed), video, 224, boxes)
    back = view.to_pixels(view.to_fractions(boxes))
    start, size = view._window()
    inside = np.clip(boxes, np.tile(start, 2), np.tile(start + size, 2))
    np.testing.assert_allclose(back, inside, atol=1e-9)
    assert View.from_json(view.to_json()) == view


def test_pixels_of_a_crop_are_those_of_its_place():
    """A picture that says where it is: colours are the column and the row, so a crop must show its own coordinates."""
    height, width = 120, 200
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    frame = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)[None]
    view = View(width, height, 90, 80, Crop(100, 60, 30, 10, 45, 40))
    found = apply_view(frame, view, (0, 0, 0), (1, 1, 1))[0] * 255
    corners = view.to_pixels(np.array([[0.5, 0.5, 1, 1]]))[0]
    assert corners.tolist() == [60, 20, 150, 100]
    assert found.shape == (3, 80, 90)
    assert found[0, 40, 45] == pytest.approx(corners[[0, 2]].mean(), abs=1.5)
    assert found[1, 40, 45] == pytest.approx(corners[[1, 3]].mean(), abs=1.5)
    assert found[0, 0, 0] == pytest.approx(corners[0], abs=2)
    assert found[1, -1, -1] == pytest.approx(corners[3], abs=2)


@pytest.fixture(scope="module", params=["roi", "full"])
def viewed(request, synthetic, tmp_path_factory):
    return extract_synthetic(synthetic, tmp_path_factory.mktemp("views") / "cache", levels=request.param, views=3)


def test_stored_views_equal_features_computed_online(viewed, synthetic):
    cache, backbone = Cache.open(viewed), build_backbone("tiny")
    sample = cache.samples[0]
    unit = cache.unit(sample.video.video_id)
    assert len(unit.views) == 3
    assert len(set(unit.views)) == 3
    size = {"width": sample.video.width, "height": sample.video.height}
    pixels = np.concatenate(list(read_frames(synthetic / "vidor/video" / sample.video.path, unit.frames, **size)))
    for k, view in enumerate(unit.views):
        levels = encode(backbone, apply_view(pixels, view, backbone.mean, backbone.std), CPU)
        regions = Regions.of(unit.regions, unit.frames, view)
        for name, online in select_levels(levels, cache.recipe, regions, np.ones(len(pixels), bool)).items():
            stored = cache.store.read(video_key(sample.video.video_id), array_name(name, k))
            np.testing.assert_allclose(stored, online, atol=3e-3, rtol=2e-3)


def train_split(path, targets=None):
    cache = Cache.open(path)
    return CachedDataset(
        cache, "train", Sampling(5.0, 40), targets=further(cache.recipe) if targets is None else targets
    )


def test_training_sees_every_view_that_shows_the_whole_tube_and_no_other(viewed):
    dataset = train_split(viewed)
    for p in range(len(dataset)):
        sample = dataset[p].sample
        views = dataset.cache.unit(sample.video.video_id).views
        boxes = sample.boxes[has_boxes(sample.boxes)]
        showing = {k for k, view in enumerate(views) if (view.to_fractions(boxes)[:, 2:] > 0).all()}
        assert 0 in showing
        seen = [dataset.redraw(dataset[p], 0, epoch, p).rendition for epoch in range(40)]
        assert {rendition.index for rendition in seen} == showing
        assert all(rendition.view == views[rendition.index] for rendition in seen)


def test_sentences_of_a_video_share_a_view_in_an_epoch_as_far_as_it_shows_their_tubes(viewed):
    dataset = train_split(viewed)
    for epoch in range(10):
        shared: dict[str, set[int]] = {}
        for p in range(len(dataset)):
            clip = dataset.redraw(dataset[p], 0, epoch, p)
            views = dataset.cache.unit(clip.sample.video.video_id).views
            boxes = clip.sample.boxes[has_boxes(clip.sample.boxes)]
            if all((view.to_fractions(boxes)[:, 2:] > 0).all() for view in views):
                shared.setdefault(clip.sample.video.video_id, set()).add(clip.rendition.index)
        assert shared
        assert all(len(indices) == 1 for indices in shared.values())


def test_views_are_drawn_from_the_seed_and_the_video_alone(viewed):
    cache = Cache.open(viewed)
    drawn = {}
    for video_id, rows in cache.samples.rows_of_videos.items():
        views = stored_views(cache.samples.video(rows[0]), cache.recipe)
        assert cache.unit(video_id).views == views
        drawn[video_id] = views[1:]
    assert len({tuple(views) for views in drawn.values()}) == len(drawn)
    video = cache.samples.video(0)
    other = stored_views(video, replace(cache.recipe, views_seed=1))
    assert other[0] == stored_views(video, cache.recipe)[0]
    assert other[1:] != drawn[video.video_id]


def test_targets_follow_the_view(viewed):
    dataset = train_split(viewed)
    found = 0
    for batch in training_batches(dataset, epoch_order(dataset, 4, 2, 0, 1), 0, 1, crop=False):
        for b, (sample, view) in enumerate(zip(batch.samples, batch.views, strict=True)):
            frames, inside = batch.frames[b].numpy(), batch.targets.in_moment[b, : len(batch.frames[b])].numpy()
            expected = view.to_fractions(sample.boxes_at(frames[inside]))
            np.testing.assert_allclose(batch.targets.boxes[b, : len(frames)][inside], expected, atol=1e-6)
            assert batch.targets.size[b].tolist() == [view.width, view.height]
            found += view.crop is not None
    assert found


def test_inference_knows_one_view(viewed):
    cache = Cache.open(viewed)
    for batch in inference_batches(train_split(viewed), 4, 40):
        assert all(view.crop is None for view in batch.views)
        assert all(v == cache.unit(s.video.video_id).views[0] for s, v in zip(batch.samples, batch.views, strict=True))


def test_the_target_is_where_the_view_says_it_is(viewed, synthetic):
    """Colour of the target's own pixels in the source, found again inside the box of every cropped view."""
    cache = Cache.open(viewed)
    checked = 0
    for sample in list(cache.samples):
        if sample.split != "train":
            continue
        frame = sample.moment[0]
        box = sample.boxes_at(np.array([frame]))[0]
        size = {"width": sample.video.width, "height": sample.video.height}
        source = next(read_frames(synthetic / "vidor/video" / sample.video.path, np.array([frame]), **size))
        middle = source[0, int(box[[1, 3]].mean()), int(box[[0, 2]].mean())].astype(float)
        for view in cache.unit(sample.video.video_id).views[1:]:
            cx, cy, w, h = view.to_fractions(box[None])[0]
            back = view.to_pixels(np.array([[cx, cy, w, h]]))[0]
            if view.crop is None or not np.allclose(back, box, atol=1e-6):
                continue  # only part of the target is seen, so the middles differ
            shown = apply_view(source, view, (0, 0, 0), (1, 1, 1))[0, :, int(cy * view.height), int(cx * view.width)]
            checked += 1
            assert np.abs(shown.numpy() * 255 - middle).max() < 60
    assert checked > 3


def test_a_view_that_hides_the_target_is_an_error_and_no_target(viewed):
    dataset = train_split(viewed)
    clip = dataset[0]
    video = clip.sample.video
    blind = View(video.width, video.height, 64, 64, Crop(video.width, video.height, 0, 0, 1, 1))
    with pytest.raises(CacheError, match="does not show the target"):
        dataset.collate([replace(clip, rendition=Rendition(video, blind))])
