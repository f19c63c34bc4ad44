"""Frames on their way to a GPU: rendered there to the same bits, and encoded in batches that fit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.view import Crop, View
from stvg.errors import StvgError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.contract import IMAGENET_MEAN, IMAGENET_STD
from stvg.extract.encoding import Encoding
from stvg.extract.features import encode
from stvg.extract.intake import Renderer
from stvg.extract.render import render

from ..gpu import CPU

sides = st.integers(1, 70)


@st.composite
def views(draw: st.DrawFn) -> View:
    width, height, new_width, new_height = (draw(sides) for _ in range(4))
    if draw(st.booleans()):
        return View(width, height, new_width, new_height)
    between = draw(sides), draw(sides)
    left, top = (draw(st.integers(0, side - 1)) for side in between)
    cut = [draw(st.integers(1, side - start)) for side, start in zip(between, (left, top), strict=True)]
    return View(width, height, new_width, new_height, Crop(*between, left, top, *cut))


@settings(deadline=None, max_examples=60)
@given(views())
def test_a_device_renders_to_the_bits_of_the_decoders(view):
    frames = np.random.default_rng(0).integers(0, 256, (2, view.source_height, view.source_width, 3), dtype=np.uint8)
    expected = np.empty((2, view.height, view.width, 3), np.float32)
    for frame, out in zip(frames, expected, strict=True):
        render(frame, view, IMAGENET_MEAN, IMAGENET_STD, out)
    found = Renderer(CPU, IMAGENET_MEAN, IMAGENET_STD)(torch.from_numpy(frames), view)
    assert np.array_equal(found.numpy(), expected)


class Small(Encoding):
    """A device that holds no more than ``most`` frames at once."""

    def __init__(self, most: int) -> None:
        super().__init__(build_backbone("tiny"), CPU, "none")
        self.most, self.tried = most, []

    def _encode(self, frames):
        self.tried.append(len(frames))
        if len(frames) > self.most:
            raise torch.OutOfMemoryError
        return super()._encode(frames)


@pytest.mark.parametrize(("most", "tried"), [(8, [8]), (4, [8, 4, 4]), (3, [8, 4, 2, 2, 2, 2])])
def test_a_batch_that_does_not_fit_is_halved_and_loses_nothing(most, tried, caplog):
    frames, device = torch.rand(8, 3, 32, 48), Small(most)
    expected = encode(device.backbone, frames, CPU)
    with caplog.at_level(logging.WARNING):
        found = device(frames)
        again = device(frames)
    assert device.tried[: len(tried)] == tried
    assert device.tried[len(tried) :] == [n for n in tried if n <= most], "it remembers what fits"
    assert ("continuing with" in caplog.text) == (most < 8)
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level)
        assert torch.equal(found[name], again[name])


def test_a_frame_that_does_not_fit_alone_says_what_to_do():
    with pytest.raises(StvgError, match="does not fit the memory") as caught:
        Small(0)(torch.rand(2, 3, 32, 48))
    assert "--resolution" in str(caught.value)
