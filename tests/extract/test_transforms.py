from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from stvg.cache.view import View
from stvg.extract.transforms import apply_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frames_of(width: int, height: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(width * 1000 + height).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(1, 90), st.integers(1, 90))
def test_resizing_is_bilinear_between_pixel_centres_without_antialiasing(
    w: int, h: int, new_w: int, new_h: int
) -> None:
    frames = frames_of(w, h)
    found = apply_view(frames, View(w, h, new_w, new_h), (0, 0, 0), (1, 1, 1))
    ys = np.clip((np.arange(new_h) + 0.5) * h / new_h - 0.5, 0, h - 1)
    xs = np.clip((np.arange(new_w) + 0.5) * w / new_w - 0.5, 0, w - 1)
    low_y, low_x = np.floor(ys).astype(int), np.floor(xs).astype(int)
    up_y, up_x = np.minimum(low_y + 1, h - 1), np.minimum(low_x + 1, w - 1)
    fy, fx = (ys - low_y)[:, None, None], (xs - low_x)[:, None]
    pixels = frames.astype(float)
    top = pixels[:, low_y][:, :, low_x] * (1 - fx) + pixels[:, low_y][:, :, up_x] * fx
    bottom = pixels[:, up_y][:, :, low_x] * (1 - fx) + pixels[:, up_y][:, :, up_x] * fx
    expected = (top * (1 - fy) + bottom * fy) / 255
    assert found.shape == (2, 3, new_h, new_w)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=2e-4)


def test_it_agrees_with_torchvision_on_the_fields_geometry() -> None:
    frames = frames_of(640, 362)
    view = View.evaluation(640, 362, 224, 373)
    expected = tv.normalize(
        tv.resize(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255, [view.height, view.width], antialias=False),
        list(MEAN),
        list(STD),
    )
    torch.testing.assert_close(apply_view(frames, view, MEAN, STD), expected, atol=2e-5, rtol=0)


def test_a_view_of_the_source_size_only_normalises_and_leaves_the_frames_alone() -> None:
    frames = frames_of(31, 17)
    before = frames.copy()
    found = apply_view(frames, View(31, 17, 31, 17), MEAN, STD)
    np.testing.assert_allclose(
        found.permute(0, 2, 3, 1).numpy(), (frames / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5
    )
    assert np.array_equal(frames, before)


def test_frames_of_another_size_than_the_view_expects_are_refused() -> None:
    with pytest.raises(ValueError, match="the view expects"):
        apply_view(frames_of(30, 20), View(20, 30, 10, 15), MEAN, STD)
