"""Frames of many videos in batches of one size: nothing is lost, doubled or reordered, and neighbours do not matter."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.extract.batches import WAITING_BATCHES, Mixer
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.features import encode

CPU = torch.device("cpu")
SHAPES = [(2, 3), (3, 2), (1, 1), (4, 4)]
blocks = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9)), max_size=40)


@settings(deadline=None)
@given(blocks, st.integers(1, 12))
def test_every_frame_leaves_once_in_its_order_whatever_is_mixed(blocks, size):
    """Blocks are (clip, shape, frames); a frame's pixels are its clip and its number."""
    mixer, given_to, found = Mixer(size, CPU), defaultdict(int), defaultdict(list)

    def take(batches):
        for batch in batches:
            assert batch.pixels.shape[0] == size
            assert not batch.pixels[batch.filled :].any()
            for piece in batch.pieces:
                numbers = batch.pixels[piece.at : piece.at + piece.count, 0, 0, 1]
                assert numbers.tolist() == list(range(piece.start, piece.start + piece.count))
                assert (batch.pixels[piece.at : piece.at + piece.count, ..., 0] == piece.owner[0]).all()
                found[piece.owner] += range(piece.start, piece.start + piece.count)

    for clip, shape, count in blocks:
        start = given_to[clip, shape]
        frames = torch.zeros(count, *SHAPES[shape], 3)
        frames[..., 0], frames[..., 1] = clip, torch.arange(start, start + count)[:, None, None]
        take(mixer.add((clip, shape), 0, start, frames))
        given_to[clip, shape] += count
        assert sum(given_to.values()) - sum(map(len, found.values())) <= WAITING_BATCHES * size
    take(mixer.rest())
    assert {clip: list(range(n)) for clip, n in given_to.items()} == found


@pytest.mark.parametrize("name", ["tiny", "resnet101"])
def test_a_frames_features_depend_on_neither_its_neighbours_nor_its_place(name):
    backbone = build_backbone(name, "random").to(memory_format=torch.channels_last)
    frames = torch.randn(5, 64, 96, 3, generator=torch.Generator().manual_seed(0))

    def features(order):
        (batch,) = [*(mixer := Mixer(6, CPU)).add(None, 0, 0, frames[order]), *mixer.rest()]
        return encode(backbone, batch.tensor(), CPU)

    whole, turned, alone = features([0, 1, 2, 3, 4]), features([4, 3, 2, 1, 0]), features([3])
    for level in whole:
        assert torch.equal(whole[level][:5], turned[level][:5].flip(0))
        assert torch.equal(whole[level][3], alone[level][0])
