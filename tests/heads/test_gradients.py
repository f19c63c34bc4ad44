"""What ranks do while the backward pass runs, with the other ranks made up: sums set out early, and always in one order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg.heads.training import gradients
from stvg.heads.training.gradients import SharedGradients, in_buckets
from stvg.heads.training.ranks import ALONE, Ranks


class Twins:
    """Other ranks that have what this one has: every sum is twice what is there."""

    def __init__(self, model):
        self.model, self.sent, self.missing = model, [], []

    def all_reduce(self, numbers, async_op=False):
        self.sent.append(numbers.numel())
        self.missing.append(sum(p.grad is None for p in self.model.parameters()))
        numbers *= 2
        return self

    def wait(self):
        pass


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 2))


@pytest.fixture
def twins(model, monkeypatch):
    found = Twins(model)
    monkeypatch.setattr(gradients, "dist", found)
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 100)
    return found


def test_gradients_of_the_last_layers_set_out_before_those_of_the_first_are_there(model, twins):
    parameters = list(model[:3].parameters())
    shared, x = SharedGradients(Ranks(0, 2), parameters), torch.randn(5, 4)
    loss = model[:3](x).square().sum()
    with shared.added():
        loss.backward(retain_graph=True)
        early = list(twins.sent)
    assert twins.missing[0] > 2, "the first sum waited for the backward pass"
    assert early == [sum(p.numel() for p in b.parameters) for b in in_buckets(parameters)]
    expected = torch.autograd.grad(loss, parameters)
    assert shared.sum(loss.detach()) == pytest.approx(2 * loss.item())
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_what_a_sample_does_not_reach_travels_in_its_place_and_has_no_gradient_afterwards(model, twins):
    parameters = list(model.parameters())
    shared = SharedGradients(Ranks(0, 2), parameters)
    loss = model[:3](torch.randn(5, 4)).sum()
    with shared.added():
        loss.backward()
        assert twins.sent == [], "a later sum set out before the first"
    shared.sum(loss.detach())
    sizes = [sum(p.numel() for p in b.parameters) for b in in_buckets(parameters)]
    assert twins.sent == [*sizes, len(parameters) + 1]
    assert [p.grad is None for p in parameters] == [False] * 6 + [True] * 2


def test_a_rank_without_a_sample_sends_as_many_sums_as_the_others(model, twins):
    shared = SharedGradients(Ranks(1, 2), list(model.parameters()))
    shared.sum(torch.zeros(()))
    assert len(twins.sent) == len(in_buckets(list(model.parameters()))) + 1
    assert all(p.grad is None for p in model.parameters())


def test_one_process_alone_sends_nothing(model, twins):
    shared = SharedGradients(ALONE, list(model.parameters()))
    with shared.added():
        model(torch.randn(5, 4)).sum().backward()
    assert shared.sum(torch.ones(())) == 1
    assert twins.sent == []
