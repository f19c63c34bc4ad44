"""Half precision costs little and breaks nothing; float32 agrees with float64, from the losses to every gradient."""

from __future__ import annotations

import pytest
import torch

from stvg.heads.fsm.losses import LossConfig
from stvg.heads.losses import Criterion
from stvg.heads.table import build_model

from .clips import CLIPS, FACTS, batch, small
from .test_model import doubled

VARIANTS = [{}, {"whole": True, "proj_norm": "none"}, {"head": "tubedetr"}]


def trained_a_step(variant, dtype):
    """Model, output, loss terms and gradients of one step without dropout. bfloat16: autocast of the forward pass."""
    variant = dict(variant)
    whole = variant.pop("whole", False)
    model = build_model(small(dropout=0.0, span_dropout=0.0, **variant), FACTS, 0)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if not parameter.any():  # zero at the start, which would hide what lies behind
            torch.nn.init.normal_(parameter, std=0.1)
    inputs, targets = batch(CLIPS, whole)
    if dtype == torch.float64:
        model, inputs, targets = model.double(), doubled(inputs), doubled(targets)
    seen = {}
    model.resizer.layer_norm.register_forward_hook(lambda m, a, r: seen.update(resizer=(a[0].dtype, r.dtype)))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = model(inputs, targets)
    losses = Criterion(LossConfig())(output, targets, inputs.frame_padding)
    torch.stack(list(losses.values())).sum().backward()
    return seen, output, losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_bfloat16_moves_no_loss_by_two_percent_and_leaves_gradients_finite(variant):
    _, _, exact, reference = trained_a_step(variant, torch.float32)
    _, _, losses, gradients = trained_a_step(variant, torch.bfloat16)
    assert losses.keys() == exact.keys()
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.02), name
    assert all(g.isfinite().all() for g in gradients.values())
    ours, theirs = (torch.cat([g[n].flatten() for n in reference]) for g in (gradients, reference))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_what_half_precision_would_spoil_stays_in_float32():
    """The resizer's norm, the softmax over time, and boxes, spans and scores, which are read in float32."""
    seen, output, _, _ = trained_a_step({}, torch.bfloat16)
    assert seen["resizer"] == (torch.float32, torch.float32)
    for layer in output.layers:
        assert {t.dtype for t in (layer.boxes, layer.span, layer.score, layer.attention)} == {torch.float32}
        rows = layer.attention.sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-6)
    assert output.anchor.boxes.dtype == torch.float32
    # bfloat16 numbers have 16 zero bits at the end; numbers computed in float32 do not.
    assert (output.layers[-1].boxes.view(torch.int32) & 0xFFFF != 0).float().mean() > 0.9


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_float32_losses_and_gradients_agree_with_float64(variant):
    _, _, exact, reference = trained_a_step(variant, torch.float64)
    _, _, losses, gradients = trained_a_step(variant, torch.float32)
    for name, value in losses.items():
        assert value.item() == pytest.approx(exact[name].item(), rel=1e-5), name
    assert gradients.keys() == reference.keys()
    largest = max(float(g.abs().max()) for g in reference.values())
    for name, gradient in gradients.items():
        error = float((gradient.double() - reference[name]).abs().max())
        assert error < 1e-5 * max(float(reference[name].abs().max()), 1e-2 * largest), name
