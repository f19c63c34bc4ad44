"""What a training step gives a GPU to do, counted on one that computes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stvg.cache.batches.batch import Batch
from stvg.heads.settings import load_experiment

from ..benchmarks.counting import Counted, counted, counting_gpu, device
from .clips import CLIPS, FACTS, batch

SMALL = ("model.d=32", "model.ffn=48", "model.encoder_layers=2", "model.decoder_layers=2", "model.max_frames=12")


def step_of(preset: str, *settings: str) -> Counted:
    inputs, targets = batch(CLIPS)
    experiment = load_experiment(preset, [*SMALL, "train.amp=bf16", *settings])
    return counted(experiment, FACTS, Batch([], [""] * len(CLIPS), [], [], inputs, targets))


def test_products_casts_and_fills_are_counted_views_are_not_and_weights_are_cast_once():
    with counting_gpu() as gpu:
        x, weight = torch.ones(4, 8, device=device()), torch.ones(8, 8, device=device(), requires_grad=True)
        gpu.reset()
        with torch.autocast(device().type, torch.bfloat16):
            y = F.linear(x.view(2, 2, 8)[0], weight)
            F.linear(y, weight).transpose(0, 1)
        assert gpu.launched == {"_to_copy": 2, "mm": 2}
        gpu.reset()
        torch._foreach_add_([weight.detach()] * 111, 1.0)
        assert gpu.launched == {"_foreach_add_": 2}
        assert gpu.waits == []
        bool(x.sum() > 0)
        assert gpu.waits == ["_local_scalar_dense"]


@pytest.mark.parametrize(("preset", "most"), [("paper", 1950), ("tubedetr", 760), ("stcat", 1430), ("small", 1800)])
def test_a_step_in_half_precision_waits_once_and_is_of_few_operations(preset, most):
    """Two layers of each kind. At the paper's sizes: tests/benchmarks/launches.py."""
    found = step_of(preset)
    assert found.waits == ["_local_scalar_dense"]
    assert found.launched.total() <= most
