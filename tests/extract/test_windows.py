"""The frames around a frame: of the video's own grid, whatever is annotated, put together as they are decoded."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.sampling import grid_frames, neighbours
from stvg.extract.windows import Windows


def by_hand(frame: int, grid: list[int], window: int) -> list[int]:
    before = [f for f in grid if f < frame] or [frame]
    after = [f for f in grid if f > frame] or [frame]
    left = window // 2
    found = [before[max(len(before) - k, 0)] for k in range(left, 0, -1)]
    return [*found, frame, *(after[min(k, len(after) - 1)] for k in range(window - left - 1))]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_neighbours_are_the_videos_own_grid_frames_before_and_after(data):
    count, window = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 9))
    ratio = data.draw(st.sampled_from([5 / 30, 5 / 29.97, 5 / 24, 0.9, 1.0]))
    grid = grid_frames(0, count, ratio).tolist()
    start = data.draw(st.integers(0, count - 1))
    frames = grid_frames(start, data.draw(st.integers(start + 1, count)), ratio)
    found = neighbours(frames, count, ratio, window)
    assert found.tolist() == [by_hand(int(f), grid, window) for f in frames]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 40))
def test_windows_come_once_each_in_order_however_frames_are_handed_over(window, blocks, count):
    frames = neighbours(np.arange(3, 3 + count), 60, 1.0, window)
    decoded = np.unique(frames)
    windows, at, found, starts = Windows(frames, decoded), 0, [], []
    while at < len(decoded):
        size = blocks[at % len(blocks)]
        slot = torch.from_numpy(decoded[at : at + size]).float()[:, None, None, None].expand(-1, 2, 2, 3).clone()
        first, complete = windows.add(at, slot)
        starts += range(first, first + len(complete))
        found.append(complete[..., 0, 0, 0].numpy().astype(int))
        slot.zero_()
        at += size
    assert starts == list(range(count))
    assert np.array_equal(np.concatenate(found), frames)
    assert len(windows._kept) <= window
