"""Dropout, attention and feed-forward layers as a CPU runs them: right gradients and odds, torch's own results without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from stvg.heads import feed_forward
from stvg.heads.attention import attend, hidden
from stvg.heads.cpu.dropping import keep_scale, kept
from stvg.heads.dropout import Dropout, dropout


def seeded(function):
    """The same draws at every call, so that differences are those of the inputs."""

    def call(*inputs):
        torch.manual_seed(1)
        return function(*inputs)

    return call


def doubles(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.0001])
def test_each_element_is_dropped_with_its_probability_alone(p):
    torch.manual_seed(0)
    stay = kept(torch.Size((1000, 1001)), p, torch.float32)
    assert set(stay.unique().tolist()) <= {0.0, 1.0}
    sigma = (p * (1 - p) / stay.numel()) ** 0.5
    assert abs((1 - stay.mean()).item() - p) < 5 * sigma + 1e-5
    lanes = stay.flatten()[: 4 * 250_000].view(-1, 4)  # one draw serves four neighbours
    together = torch.corrcoef(lanes.T) - torch.eye(4)
    assert together.abs().max() < 5 / 250_000**0.5
    assert abs((1 - lanes.mean(0)) - p).max() < 10 * sigma + 1e-5


def test_dropout_keeps_the_mean_zeroes_the_rest_and_follows_the_seed():
    x = torch.ones(1000, 500)
    torch.manual_seed(3)
    y = dropout(x, 0.1, training=True)
    torch.manual_seed(3)
    assert torch.equal(y, dropout(x, 0.1, training=True))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(keep_scale(0.1)).item()}
    assert y.mean().item() == pytest.approx(1, abs=0.005)
    assert dropout(x, 0.1, training=False) is x
    assert Dropout(0.1).eval()(x) is x


def test_dropouts_gradient_is_that_of_what_it_did():
    assert gradcheck(seeded(lambda x: dropout(x, 0.3, training=True)), doubles((5, 7)))


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_feed_forward_gradient_is_right_across_tiles(p, monkeypatch):
    monkeypatch.setattr("stvg.heads.cpu.tiled_feed_forward.TILE", 4)

    def layer(x, w1, b1, w2, b2):
        inner, outer = SimpleNamespace(weight=w1, bias=b1), SimpleNamespace(weight=w2, bias=b2)
        return feed_forward.feed_forward(x, inner, outer, p, training=True)

    assert gradcheck(seeded(layer), doubles((2, 5, 3), (8, 3), (8,), (3, 8), (3,)))


def test_without_gradients_the_feed_forward_layer_says_the_same(monkeypatch):
    monkeypatch.setattr("stvg.heads.cpu.tiled_feed_forward.TILE", 4)
    inner, outer, x = nn.Linear(3, 8), nn.Linear(8, 3), torch.randn(2, 5, 3)
    expected = feed_forward.feed_forward(x, inner, outer, 0.5, training=False)
    with torch.no_grad():
        assert torch.equal(feed_forward.feed_forward(x, inner, outer, 0.5, training=False), expected)


@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_the_feed_forward_layer_is_its_formula(training):
    torch.manual_seed(0)
    inner, outer = nn.Linear(16, 64), nn.Linear(64, 16)
    x = torch.randn(3, 700, 16, requires_grad=True)
    expected = outer(F.relu(inner(x)))
    gradient = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, *inner.parameters(), *outer.parameters()], gradient)
    found = feed_forward.feed_forward(x, inner, outer, 0.0 if training else 0.5, training)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(found, [x, *inner.parameters(), *outer.parameters()], gradient), wanted, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_in_autocast_the_feed_forward_layer_works_in_its_type_and_weights_keep_theirs():
    inner, outer = nn.Linear(16, 64), nn.Linear(64, 16)
    x = torch.randn(5, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = feed_forward.feed_forward(x, inner, outer, 0.1, training=True)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert {t.grad.dtype for t in (x, *inner.parameters(), *outer.parameters())} == {torch.float32}


PADDING = torch.tensor([[False] * 5, [False, False, True, True, True], [False, True, False, True, False]])


HIDES = hidden(PADDING, torch.float64)


@pytest.mark.parametrize("padding", [None, HIDES], ids=["whole", "padded"])
def test_the_gradient_of_attention_with_dropout_is_right_across_tiles(padding, monkeypatch):
    monkeypatch.setattr("stvg.heads.cpu.tiled_attention.TILE_BYTES", 1)
    inputs = doubles((3, 2, 4, 3), (3, 2, 5, 3), (3, 2, 5, 3))
    assert gradcheck(seeded(lambda q, k, v: attend(q, k, v, padding, 0.3)), inputs)


@pytest.mark.parametrize("padding", [None, HIDES], ids=["whole", "padded"])
def test_attention_that_drops_next_to_nothing_is_torchs(padding):
    q, k, v = doubles((3, 2, 4, 3), (3, 2, 5, 3), (3, 2, 5, 3))
    expected = F.scaled_dot_product_attention(q, k, v, None if padding is None else ~PADDING[:, None, None])
    torch.testing.assert_close(attend(q, k, v, padding, 1e-9), expected)
    torch.testing.assert_close(attend(q, k, v, padding, 0.0), expected)


def test_padded_keys_get_no_weight_and_no_gradient_while_weights_are_dropped():
    q, k, v = doubles((3, 2, 4, 3), (3, 2, 5, 3), (3, 2, 5, 3))
    attend(q, k, v, HIDES, 0.2).sum().backward()
    hidden = PADDING[:, None, :, None].expand_as(v)
    assert not v.grad[hidden].any()
    assert not k.grad[hidden].any()


def test_a_weight_that_is_dropped_is_dropped_for_its_value_alone():
    torch.manual_seed(0)
    q, k = torch.zeros(200, 1, 1, 50), torch.zeros(200, 1, 50, 50)  # every weight is 1 / 50
    v = torch.eye(50).expand(200, 1, 50, 50)
    out = attend(q, k, v, None, 0.1).flatten(0, 2)
    assert out.mul(50).unique().tolist() == pytest.approx([0, keep_scale(0.1)])
    assert (out == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
