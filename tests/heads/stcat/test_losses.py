"""STCAT's losses and their gradients, recorded and ours; and a batch equals its samples."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stvg.cache.batches.batch import Targets
from stvg.heads.import_weights import translate
from stvg.heads.losses import EPSILON, Criterion, MeanOver, action_loss, box_losses, guided_attention_loss, span_loss
from stvg.heads.model import Output
from stvg.heads.stcat.losses import TERMS, STCATLoss
from stvg.heads.stcat.model import STCATLayer

from .recorded import Case, imported, tensors

NAMES = {
    "l1": "loss_bbox",
    "giou": "loss_giou",
    "span": "loss_sted",
    "attention": "loss_guided_attn",
    "action": "loss_actioness",
}
LEAF = {"l1": "pred_boxes", "giou": "pred_boxes", "span": "pred_sted", "attention": "attention", "action": "pred_actioness"}  # fmt: skip  # noqa: E501
CASES = ("inside", "at_the_end", "one_frame_moment", "whole_clip", "one_frame_clip", "batch", "other_constants")
MODELS = ("model_single", "model_batch_pad")


@cache
def arrays(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "stcat_losses.npz"))


@dataclass
class Recorded:
    """One recorded case of the losses."""

    folder: Path
    name: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        every = json.loads((self.folder / "stcat_losses.json").read_text())["cases"]
        return next(c for c in every if c["name"] == self.name)

    @cached_property
    def found(self) -> dict[str, Tensor]:
        start = f"{self.name}/"
        return {k.removeprefix(start): torch.tensor(v) for k, v in arrays(self.folder).items() if k.startswith(start)}

    @cached_property
    def config(self) -> STCATLoss:
        weights = {ours: float(self.facts["loss_weights"][theirs]) for ours, theirs in NAMES.items()}
        return STCATLoss(**weights, span_sigma=float(self.facts["sigma"]), outside=float(self.facts["eos"]))

    @cached_property
    def targets(self) -> Targets:
        B, T = self.found["time_mask"].shape
        inside, boxes = torch.zeros(B * T, dtype=torch.bool), torch.zeros(B * T, 4)
        inside[self.found["keep"]], boxes[self.found["keep"]] = True, self.found["target_boxes"]
        span = torch.tensor(self.facts["moments_inclusive"])
        return Targets(boxes.view(B, T, 4), inside.view(B, T), span, torch.ones(B, 2, dtype=torch.int64))

    @property
    def padding(self) -> Tensor:
        return ~self.found["time_mask"]

    def leaves(self, layer: int) -> dict[str, Tensor]:
        names = sorted(set(LEAF.values()))
        return {k: self.found[f"layer{layer}.{k}"].clone().requires_grad_() for k in names}

    def output(self, leaves: dict[str, Tensor]) -> STCATLayer:
        B, T = self.padding.shape
        boxes, empty = leaves["pred_boxes"].view(B, 1, T, 4), torch.zeros(0)
        action = leaves["pred_actioness"][..., 0]
        return STCATLayer(boxes, leaves["pred_sted"][:, None], None, leaves["attention"][:, None], empty, action, empty)

    def values(self, layer: STCATLayer, one: int | None = None) -> dict[str, Tensor]:
        """The unweighted terms as they are recorded: span and actionness are means over all slots, padding included."""
        t, padding, c = self.targets, self.padding, self.config
        l1, giou = box_losses(layer.boxes[:, 0], t.boxes, t.slots)
        return {
            "l1": l1,
            "giou": giou,
            "span": over_padding_too(layer.span[:, 0], t.span, padding, c.span_sigma),
            "attention": guided_attention_loss(layer.attention[:, 0], t.in_moment, padding),
            "action": sum(
                action_loss(layer.action[b : b + 1, :n], t.in_moment[b : b + 1, :n], padding[b : b + 1, :n], c.outside)
                * n
                for b, n in enumerate((~padding).sum(1).tolist())
            )
            / padding.numel(),
        }

    def total(self, layers: list[STCATLayer]) -> Tensor:
        return sum(TERMS[k].weight(self.config) * v for layer in layers for k, v in self.values(layer).items())


def over_padding_too(logits: Tensor, span: Tensor, padding: Tensor, sigma: float) -> Tensor:
    """Our span term of every clip alone, brought to the recorded normaliser: all slots share mean and targets' sum."""
    B, T = padding.shape
    target = torch.exp(-(torch.arange(T)[None, :, None] - span[:, None]).double().square() / (2 * sigma**2)) + EPSILON
    total = torch.zeros(())
    for b, n in enumerate((~padding).sum(1).tolist()):
        alone = span_loss(logits[b : b + 1, :n], span[b : b + 1], padding[b : b + 1, :n], sigma)
        total = total + alone * n + (target[b].sum(0) / target[b, :n].sum(0)).log().sum().float()
    return total / (B * T)


def require_near(ours: Tensor, theirs: Tensor, share: float, least: float, what: object) -> None:
    tolerance = max(share * float(theirs.abs().max()), least)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=tolerance, err_msg=str(what))


@pytest.mark.parametrize("name", [*CASES, *MODELS])
def test_every_term_of_every_layer_equals_the_recorded_one_with_its_gradient(shared: Path, name: str) -> None:
    case = Recorded(shared / "golden", name)
    for i, expected in enumerate(case.facts["losses"]):
        leaves = case.leaves(i)
        values = case.values(case.output(leaves))
        assert values.keys() == TERMS.keys()
        for term, theirs in NAMES.items():
            assert values[term].item() == pytest.approx(expected[theirs], rel=1e-5, abs=1e-6), (name, i, term)
            if case.facts["has_gradients"]:
                (gradient,) = torch.autograd.grad(values[term], leaves[LEAF[term]], retain_graph=True)
                recorded = case.found[f"layer{i}.grad.{theirs}.{LEAF[term]}"]
                require_near(gradient, recorded, 1e-4, 1e-6, (name, i, term))


@pytest.mark.parametrize("name", [*CASES, *MODELS])
def test_the_objective_equals_the_recorded_total_and_its_gradients(shared: Path, name: str) -> None:
    case = Recorded(shared / "golden", name)
    leaves = [case.leaves(i) for i in range(case.facts["n_layers"])]
    layers = [case.output(x) for x in leaves]
    total = case.total(layers)
    if len(case.facts["durations"]) == 1:  # alone, a clip's objective is the published one as it stands
        terms = Criterion(case.config)(Output.of(layers), case.targets, case.padding)
        assert terms.keys() == {*TERMS, "aux"}
        total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(case.facts["weighted_total"], rel=1e-5)
    if case.facts["has_gradients"]:
        total.backward()
        for i, of_layer in enumerate(leaves):
            for leaf, value in of_layer.items():
                recorded = case.found[f"layer{i}.grad.weighted_total.{leaf}"]
                require_near(value.grad, recorded, 1e-4, 1e-6, (name, i, leaf))


@pytest.mark.parametrize("name", ["batch", "model_batch_pad"])
def test_a_batch_is_worth_its_videos_alone(shared: Path, name: str) -> None:
    """Means of the recorded videos alone; boxes are pooled over all slots inside, as over the published ranks."""
    case = Recorded(shared / "golden", name)
    inside = case.targets.in_moment.sum(1).tolist()
    for i in range(case.facts["n_layers"]):
        terms = Criterion(case.config)(Output.of([case.output(case.leaves(i))]), case.targets, case.padding)
        for term, theirs in NAMES.items():
            alone = [video[i][theirs] for video in case.facts["per_video"]]
            pooled = TERMS[term].mean_over is MeanOver.SLOTS
            expected = np.average(alone, weights=inside if pooled else None)
            value = terms[term].item() / TERMS[term].weight(case.config)
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-6), (i, term)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_the_recorded_gradient(shared: Path, name: str) -> None:
    """Which paths carry gradients: anchors are detached between layers, reference boxes are not.

    In float64: in float32 the number of threads decides on which side of a kink a value falls.
    """
    case, run = Recorded(shared / "golden", name), Case(shared / "golden", name.removeprefix("model_"))
    model = imported(shared / "golden").double()
    inputs = replace(run.inputs, maps=run.inputs.maps.double(), tokens=run.inputs.tokens.double())
    case.total(model(inputs).layers).backward()
    ours = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    names = {k: v.removeprefix("head: ") for k, v in published_names(shared / "golden").items()}
    norms = case.facts["parameter_gradient_norms"]
    compared = 0
    for theirs, norm in norms.items():
        if theirs not in names:
            assert norm is None or theirs.startswith("ground_decoder.decoder.bbox_embed."), theirs
            continue
        gradient = ours.pop(names[theirs])
        assert math.isclose(float(gradient.norm()), norm, rel_tol=1e-3, abs_tol=1e-5), theirs
        recorded = case.found.get(f"paramgrad/{theirs}")
        if recorded is not None:
            require_near(gradient.reshape(recorded.shape), recorded, 1e-3, 1e-5, theirs)
            compared += 1
    assert not ours
    assert compared > 100


@cache
def published_names(folder: Path) -> dict[str, str]:
    return translate(tensors(folder, "stcat_small.safetensors"), folder)[1].matched


def test_the_defaults_are_the_published_weights(shared: Path) -> None:
    published = json.loads((shared / "golden/stcat_losses.json").read_text())
    ours = {theirs: getattr(STCATLoss(), name) for name, theirs in NAMES.items()}
    assert ours == published["loss_weights_vidstg"]
    assert ours | {"loss_giou": 4.0} == published["loss_weights_hcstvg"]


def test_actionness_looks_at_no_padding_and_at_no_other_sample() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, requires_grad=True)
    inside = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    padding = torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    both = action_loss(logits, inside, padding, 0.3)
    alone = [action_loss(logits[b : b + 1, :n], inside[b : b + 1, :n], padding[b : b + 1, :n], 0.3) for b, n in ((0, 6), (1, 3))]  # fmt: skip  # noqa: E501
    assert both.item() == pytest.approx(sum(alone).item() / 2)
    (gradient,) = torch.autograd.grad(both, logits)
    assert not gradient[1, 3:].any()
