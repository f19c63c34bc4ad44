"""Position codes equal the recorded ones; RoIAlign equals torchvision's, and never reads padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align as torchvision_roi_align

from stvg.heads.attention import placed_product
from stvg.heads.layers import MaskedGroupNorm, StoredLinear, roi_align, roi_sine, sine_2d, time_code

EXTENTS = torch.tensor([[9, 13]] * 3)
CORNERS = torch.tensor([[0, 0, 13, 9.0], [1.2, 2.2, 7.7, 8.8], [5, 1, 12.9, 3]])


def test_position_codes_equal_the_recorded_ones(shared):
    golden = np.load(shared / "golden/encodings.npz")
    mask = torch.tensor(golden["sine2d_a.mask"])
    for d in (64, 256):
        code = sine_2d(mask, d).permute(0, 3, 1, 2)
        np.testing.assert_allclose(code, golden[f"sine2d_a.d{d}"], atol=5e-5)
        np.testing.assert_allclose(time_code(200, d), golden[f"time_T200_d{d}"], atol=5e-5)


def test_roi_align_equals_torchvision_on_whole_maps():
    maps = torch.randn(3, 9, 13, 5, generator=torch.Generator().manual_seed(0))
    rois = torch.cat([torch.arange(3.0)[:, None], CORNERS], dim=1)
    expected = torchvision_roi_align(maps.permute(0, 3, 1, 2), rois, 4, 1.0, 2, aligned=True)
    ours = roi_align(maps, CORNERS, EXTENTS)
    torch.testing.assert_close(ours, expected.permute(0, 2, 3, 1).flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_roi_align_does_not_see_what_lies_in_the_padding():
    maps = torch.randn(3, 9, 13, 5, generator=torch.Generator().manual_seed(0))
    padded = torch.full((3, 12, 16, 5), torch.nan)
    padded[:, :9, :13] = maps
    assert torch.equal(roi_align(padded, CORNERS, EXTENTS), roi_align(maps, CORNERS, EXTENTS))


def test_roi_align_of_a_ramp_returns_the_places_it_sampled():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(13.0), indexing="ij")
    ramp = torch.stack([x, y], dim=-1)[None]
    (cells,) = roi_align(ramp, torch.tensor([[2.0, 1.0, 10.0, 5.0]]), EXTENTS[:1])
    assert cells.view(4, 4, 2)[0, :, 0].tolist() == [2.5, 4.5, 6.5, 8.5]
    assert cells.view(4, 4, 2)[:, 0, 1].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_the_code_of_a_region_is_the_region_of_the_code():
    code = sine_2d(torch.zeros(3, 9, 13, dtype=torch.bool), 64)
    torch.testing.assert_close(roi_sine(CORNERS, EXTENTS, 64), roi_align(code, CORNERS, EXTENTS))


def test_group_norm_with_padding_equals_torch_without():
    norm = MaskedGroupNorm(4, 8)
    x = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 10, dtype=torch.bool)
    padding[:, 6:] = True
    expected = torch.nn.GroupNorm(4, 8)(x[:, :6].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(norm(x, padding)[:, :6], expected)


@pytest.mark.parametrize("padded", [False, True])
def test_group_norm_keeps_what_it_is_given_as_it_is_and_nothing_else(padded):
    norm = MaskedGroupNorm(4, 8)
    x = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    padding = torch.zeros(2, 10, dtype=torch.bool)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = norm(x, padding if padded else None)
    assert {t.data_ptr() for t in kept if t.is_floating_point() and t.numel()} == {x.data_ptr()}
    out.square().sum().backward()
    (expected,) = torch.autograd.grad(norm.normal(x, padding if padded else None).square().sum(), x)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_a_layer_on_stored_features_is_a_linear_layer_that_keeps_them_as_they_are_stored(stored):
    torch.manual_seed(0)
    ours, theirs = StoredLinear(6, 4), nn.Linear(6, 4)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(5, 3, 2, 6).to(stored).requires_grad_()
    same = features.detach().clone().requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = ours(features)
    expected = theirs(same.float())
    assert torch.equal(found, expected)
    assert [t.dtype for t in kept if t.shape == features.shape] == [stored]
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(features.grad, same.grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def placed(x, position, weight, bias):
    """Six columns in two groups, in each of which the first two are of x + position."""
    return placed_product(x, position, weight, bias, group=3, placed=2)


@pytest.mark.parametrize("place", [(2, 1, 5, 4), (2, 3, 5, 4), (1, 1, 5, 4)], ids=["of a clip", "of a slot", "of all"])
def test_a_product_with_a_position_is_that_of_their_sum_in_value_and_gradient(place):
    torch.manual_seed(0)
    shapes = ((2, 3, 5, 4), place, (6, 4), (6,))
    operands = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, position, weight, bias = operands
    summed, alone = F.linear(x + position, weight, bias), F.linear(x, weight, bias)
    expected = torch.where(torch.arange(6) % 3 < 2, summed, alone)
    torch.testing.assert_close(placed(*operands), expected)
    assert torch.autograd.gradcheck(placed, operands)


def test_of_a_product_with_a_position_no_sum_is_kept_and_in_autocast_no_wide_number():
    x, position = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 1, 5, 4)
    weight, bias = torch.randn(6, 4, requires_grad=True), torch.zeros(6, requires_grad=True)
    for amp, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        kept: list[torch.Tensor] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=amp):
            found = placed(x, position, weight, bias)
        assert found.dtype == dtype
        assert [(t.shape, t.dtype) for t in kept] == [(t.shape, dtype) for t in (x, position, weight)]


def test_in_autocast_a_layer_on_stored_features_works_in_its_type_and_weights_keep_theirs():
    layer = StoredLinear(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(torch.randn(5, 6).half())
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert {layer.weight.grad.dtype, layer.bias.grad.dtype} == {torch.float32}
