"""Losses and matching: recorded reference values, other people's solvers, and what eq 10 must do."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from stvg.cache.batches.batch import Targets
from stvg.errors import UsageError
from stvg.heads.boxes import generalised_iou, to_corners
from stvg.heads.fsm.losses import TERMS, LossConfig, focal_label_loss, mrcl_loss, softmax_label_loss
from stvg.heads.fsm.matching import match_tubes
from stvg.heads.losses import EPSILON, Criterion, box_losses, guided_attention_loss, span_loss
from stvg.heads.model import LayerOutput, Output
from stvg.heads.settings import load_experiment


@dataclass
class Recorded:
    """A recorded case of the baseline's losses, padded to the longest of its clips."""

    facts: dict
    arrays: dict[str, np.ndarray]

    def __post_init__(self):
        self.real = torch.tensor(self.arrays["time_mask"])
        B, T = self.real.shape
        inside, boxes = torch.zeros(B * T, dtype=torch.bool), torch.zeros(B * T, 4)
        keep = torch.tensor(self.arrays["keep"])
        inside[keep], boxes[keep] = True, torch.tensor(self.arrays["target_boxes"])
        self.inside, self.boxes = inside.view(B, T), boxes.view(B, T, 4)
        self.span, self.sigma = torch.tensor(self.facts["inter_idx"]), float(self.facts["sigma"])

    def leaves(self, layer):
        names = ("pred_boxes", "pred_sted", "self_attn")
        return {k: torch.tensor(self.arrays[f"layer{layer}.{k}"], requires_grad=True) for k in names}

    def require_equal(self, gradient, name):
        """A gradient against the recorded one, if there is one; whether there is."""
        key = next((k for k in self.arrays if re.fullmatch(name, k)), None)
        if key:
            reference = self.arrays[key]
            tolerance = max(1e-4 * float(np.abs(reference).max()), 1e-6)
            np.testing.assert_allclose(gradient.numpy(), reference, rtol=0, atol=tolerance, err_msg=key)
        return key is not None


def recorded_losses(shared):
    description = json.loads((shared / "golden/losses.json").read_text())
    arrays = np.load(shared / "golden/losses.npz")
    for case in description["cases"]:
        start = case["name"] + "/"
        yield Recorded(case, {k.removeprefix(start): arrays[k] for k in arrays.files if k.startswith(start)})


def baseline_span_loss(logits, span, frame_padding, sigma):
    """Our term of every clip alone, brought to the baseline's normaliser: all slots of the batch, padding included, share
    the mean, and the targets' sum."""
    B, T = frame_padding.shape
    slots = torch.arange(T)
    target = torch.exp(-(slots[None, :, None] - span[:, None]).double().square() / (2 * sigma**2)) + EPSILON
    total = torch.zeros(())
    for b, t in enumerate((~frame_padding).sum(1).tolist()):
        alone = span_loss(logits[b : b + 1, :t], span[b : b + 1], frame_padding[b : b + 1, :t], sigma)
        total = total + alone * t + (target[b].sum(0) / target[b, :t].sum(0)).log().sum().float()
    return total / (B * T)


def test_box_span_and_attention_terms_equal_the_recorded_baseline_with_gradients(shared):
    compared = gradients = 0
    for case in recorded_losses(shared):
        for layer, expected in enumerate(case.facts["losses"]):
            boxes, logits, attention = case.leaves(layer).values()
            l1, giou = box_losses(boxes.view(case.boxes.shape), case.boxes, case.inside.nonzero().t())
            ours = {
                "loss_bbox": (l1, boxes),
                "loss_giou": (giou, boxes),
                "loss_sted": (baseline_span_loss(logits, case.span, ~case.real, case.sigma), logits),
                "loss_guided_attn": (guided_attention_loss(attention, case.inside, ~case.real), attention),
            }
            for name, (value, leaf) in ours.items():
                at = (case.facts["name"], layer, name)
                assert value.item() == pytest.approx(expected[name], rel=1e-5, abs=1e-6), at
                (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
                gradients += case.require_equal(gradient, rf"layer{layer}\.grad\.{name}\..*")
                compared += 1
    assert compared > 30
    assert gradients > 10


def test_the_criterion_of_the_baseline_gives_the_recorded_total_and_its_gradients(shared, monkeypatch):
    monkeypatch.setitem(
        TERMS,
        "span",
        replace(
            TERMS["span"],
            value=lambda m: torch.stack(
                [
                    baseline_span_loss(of_layer, m.targets.span, m.frame_padding, m.config.span_sigma)
                    for of_layer in m.tube(m.layers.span)
                ]
            ),
        ),
    )
    weights = json.loads((shared / "golden/losses.json").read_text())["loss_weights"]
    l1, giou, span, attention = (weights[f"loss_{k}"] for k in ("bbox", "giou", "sted", "guided_attn"))
    compared = 0
    for case in recorded_losses(shared):
        B, T = case.real.shape
        if (case.span < 0).any():
            continue  # a clip without a frame in its moment is refused here, not trained on
        leaves = [case.leaves(i) for i in range(case.facts["n_layers"])]
        layers = [
            LayerOutput(
                x["pred_boxes"].view(B, 1, T, 4),
                x["pred_sted"][:, None],
                None,
                x["self_attn"][:, None],
                torch.zeros(B, 1, T, 8),
            )
            for x in leaves
        ]
        targets = Targets(case.boxes, case.inside, case.span, torch.ones(B, 2))
        config = LossConfig(l1=l1, giou=giou, span=span, attention=attention, span_sigma=case.sigma)
        terms = Criterion(config)(Output.of(layers), targets, ~case.real)
        total = torch.stack(list(terms.values())).sum()
        assert total.item() == pytest.approx(case.facts["weighted_total"], rel=1e-5), case.facts["name"]
        if case.facts["has_gradients"]:
            total.backward()
            for i, of_layer in enumerate(leaves):
                for name, leaf in of_layer.items():
                    compared += case.require_equal(leaf.grad, rf"layer{i}\.grad\.weighted_total\.{name}")
    assert compared > 10


def test_the_published_code_forms_of_contrast_and_label_equal_the_recorded_ones(shared):
    cases = {c["component"]: c for c in json.loads((shared / "golden/fsm_isolated.json").read_text())["cases"]}
    arrays = np.load(shared / "golden/fsm_isolated.npz")
    case = cases["query_contrast"]
    states = torch.tensor(arrays["query_contrast/a/query_features"], requires_grad=True)
    anchor = torch.tensor(arrays["query_contrast/a/box_features"], requires_grad=True)
    inside = torch.ones(1, states.shape[1], dtype=torch.bool)
    positive = torch.tensor([case["positive_query"]])
    loss = mrcl_loss(states[None], anchor, positive, inside, "framewise")
    assert loss.item() == pytest.approx(case["loss"], abs=1e-5)
    loss.backward()
    np.testing.assert_allclose(states.grad, arrays["query_contrast/a/grad_query_features"], atol=1e-5)
    np.testing.assert_allclose(anchor.grad, arrays["query_contrast/a/grad_box_features"], atol=1e-5)
    case = cases["query_label"]
    logits = torch.tensor(arrays["query_label/a/logits"])[None, ..., 0]
    inside = torch.ones(1, logits.shape[2], dtype=torch.bool)
    loss = softmax_label_loss(logits, torch.tensor([case["positive_query"]]), inside)
    assert loss.item() * logits.shape[2] / case["num_boxes"] == pytest.approx(case["loss"], abs=1e-5)


def random_tubes(seed, B=3, N=4, T=6):
    g = torch.Generator().manual_seed(seed)
    pred = torch.rand(B, N, T, 4, generator=g) * 0.5 + 0.1
    target = torch.rand(B, T, 4, generator=g) * 0.5 + 0.1
    inside = torch.rand(B, T, generator=g) < 0.6
    inside[:, 2] = True
    return pred, torch.randn(B, N, T, generator=g), target, inside


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_argmin_is_the_hungarian_assignment(seed):
    pred, score, target, inside = random_tubes(seed)
    matched = match_tubes(pred, score, target, inside)
    for b in range(len(pred)):
        t = inside[b]
        p = score[b, :, t].sigmoid()
        cost = 0.2 * (0.25 * (1 - p) ** 2 * -p.log()).mean(1)
        for n in range(pred.shape[1]):
            a, c = pred[b, n, t], target[b, t]
            giou = generalized_box_iou(to_corners(a), to_corners(c)).diagonal()
            cost[n] += (5 * (a - c).abs().sum(1) + 2 * (1 - giou)).mean()
        rows, _ = linear_sum_assignment(cost[:, None].numpy())
        assert matched[b] == rows[0]


def test_frames_outside_the_moment_cannot_sway_the_match_even_as_nan():
    pred, score, target, inside = random_tubes(3)
    expected = match_tubes(pred, score, target, inside)
    pred[(~inside)[:, None].expand(pred.shape[:3])] = math.nan
    assert torch.equal(match_tubes(pred, score, target, inside), expected)


def test_a_sample_without_a_frame_in_its_moment_is_refused_by_name():
    _, _, target, inside = random_tubes(3)
    inside[1] = False
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        Targets(target, inside, torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_generalised_iou_equals_torchvision(seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(20, 4, generator=g), torch.rand(20, 4, generator=g)
    expected = generalized_box_iou(to_corners(a), to_corners(b)).diagonal()
    torch.testing.assert_close(generalised_iou(a, b), expected, atol=1e-5, rtol=1e-5)


def test_boxes_without_area_give_finite_overlap_and_gradient():
    a = torch.zeros(1, 4, requires_grad=True)
    value = generalised_iou(a, torch.zeros(1, 4))
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad.isfinite().all()


def test_focal_label_loss_equals_torchvision():
    _, score, _, inside = random_tubes(7)
    matched = torch.tensor([0, 3, 1])
    target = F.one_hot(matched, 4).float()[:, :, None].expand_as(score)
    every = sigmoid_focal_loss(score, target, alpha=0.25, gamma=2)
    expected = (every * inside[:, None]).sum() / inside.sum()
    torch.testing.assert_close(focal_label_loss(score, matched, inside), expected)


def test_focal_label_loss_everywhere_wants_nothing_outside_the_moment_and_leaves_padding_out():
    """Then a candidate's mean score over the whole clip, which eq 12 chooses by, is one that was trained everywhere."""
    _, score, _, inside = random_tubes(7)
    matched, there = torch.tensor([0, 3, 1]), torch.ones_like(inside)
    there[:, -2:] = inside[:, -2:]  # padding is never inside
    target = F.one_hot(matched, 4).float()[:, :, None] * inside[:, None]
    every = sigmoid_focal_loss(score, target, alpha=0.25, gamma=2)
    expected = (every * there[:, None]).sum() / inside.sum()
    torch.testing.assert_close(focal_label_loss(score, matched, inside, there), expected)
    score = score.requires_grad_()
    (everywhere,) = torch.autograd.grad(focal_label_loss(score, matched, inside, there), score)
    (within,) = torch.autograd.grad(focal_label_loss(score, matched, inside), score)
    assert torch.equal(everywhere[inside[:, None].expand_as(score)], within[inside[:, None].expand_as(score)])
    assert not within[~inside[:, None].expand_as(score)].any()
    assert (everywhere[(there & ~inside)[:, None].expand_as(score)] > 0).all()


def mrcl_by_loops(states, anchor, matched, inside):
    """Eq 10, term by term."""
    total = 0.0
    for b in range(len(states)):
        frames = inside[b].nonzero().flatten().tolist()
        s = [
            [F.cosine_similarity(states[b, n, t], anchor[b, t], dim=0).item() / 0.1 for t in frames]
            for n in range(states.shape[1])
        ]
        z = sum(math.exp(v) for row in s for v in row)
        total += -sum(math.log(math.exp(v) / z) for v in s[matched[b]]) / len(frames)
    return total / len(states)


def test_mrcl_equals_eq_10_written_as_loops():
    g = torch.Generator().manual_seed(1)
    states, anchor = torch.randn(3, 4, 6, 8, generator=g), torch.randn(3, 6, 8, generator=g)
    inside, matched = random_tubes(7)[3], torch.tensor([2, 0, 1])
    ours = mrcl_loss(states, anchor, matched, inside, "paper").item()
    assert ours == pytest.approx(mrcl_by_loops(states, anchor, matched, inside), rel=1e-5)


def test_perfectly_aligned_mrcl_is_the_log_of_the_moment_length_and_framewise_is_zero():
    anchor = F.normalize(torch.ones(1, 40, 8), dim=-1)
    states = torch.stack([anchor, -anchor], dim=1)
    inside = torch.ones(1, 40, dtype=torch.bool)
    matched = torch.tensor([0])
    assert mrcl_loss(states, anchor, matched, inside, "paper").item() == pytest.approx(math.log(40), abs=1e-5)
    assert mrcl_loss(states, anchor, matched, inside, "framewise").item() == pytest.approx(0, abs=1e-5)


def test_a_single_candidate_has_nothing_to_contrast():
    states = torch.randn(2, 1, 5, 8, requires_grad=True)
    inside = torch.ones(2, 5, dtype=torch.bool)
    assert mrcl_loss(states, torch.randn(2, 5, 8), torch.zeros(2, dtype=torch.int64), inside, "paper") == 0


def test_attention_weight_of_one_outside_the_moment_stays_finite():
    attention = torch.ones(1, 1, 1, requires_grad=True)
    loss = guided_attention_loss(attention, torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.isfinite()
    assert attention.grad.isfinite().all()


@pytest.mark.parametrize(
    ("assignment", "hint"),
    [
        ("loss.gio=1", "did you mean 'giou'"),
        ("loss.mrcl=many", "a number"),
        ("model.heads=7", "multiple"),
        ("train.batch_size=0", "at least 1"),
        ("model.qmm=1", "true or false"),
        ("lr", "group.setting=value"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_a_hint(assignment, hint):
    with pytest.raises(UsageError, match=hint):
        load_experiment("paper", [assignment])


@pytest.mark.parametrize(
    ("preset", "assignments", "message"),
    [
        ("small", ["model.head=tubedetr", "model.frame_decision=true"], "the head tubedetr has no setting model.frame"),
        ("tubedetr", ["loss.label=1"], "the head tubedetr has no setting loss.label"),
        ("paper", ["model.stride=2"], "the head fsm has no setting model.stride"),
    ],
)
def test_a_setting_of_another_head_is_refused_with_the_names_of_both(preset, assignments, message):
    with pytest.raises(UsageError, match=message) as refused:
        load_experiment(preset, assignments)
    owner = "tubedetr" if "stride" in message else "fsm"
    assert refused.value.facts["found"] == f"a setting of {owner}"


def test_a_group_of_settings_is_merged_into_the_presets_not_put_in_its_place():
    whole, part = load_experiment("tiny"), load_experiment("tiny", ["train={epochs: 2}"])
    assert part.train.epochs == 2
    assert part.train.lr == whole.train.lr


def test_every_shipped_preset_loads():
    from stvg.heads.settings import presets

    assert presets() == ["paper", "paper-hcstvg", "small", "stcat", "stcat-hcstvg", "tiny", "tubedetr"]
    assert all(load_experiment(p).train.epochs > 0 for p in presets())


def test_every_setting_the_documents_name_exists():
    root = Path(__file__).parents[2]
    named = {
        setting
        for page in ("README.md", "docs/disagreements.md", "docs/benchmarks.md")
        for setting in re.findall(
            r"\b(?:model|loss|train)\.[a-z][a-z0-9_.]*[a-z0-9](?:=[\w.-]*\w)?", (root / page).read_text()
        )
    }
    assert len(named) > 15
    for setting in named:
        assert any(takes(preset, *setting.partition("=")[::2]) for preset in ("paper", "tubedetr", "stcat")), setting


def takes(preset, name, value):
    try:
        attrgetter(name)(load_experiment(preset, [f"{name}={value}"] if value else []))
    except (UsageError, AttributeError):
        return False
    return True
