"""The head: parameter counts to the unit, and the invariances that make a batch mean nothing but speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stvg.heads.decoder import Stream
from stvg.heads.fsm.fusion import FusionConfig
from stvg.heads.fsm.losses import LossConfig
from stvg.heads.losses import Criterion
from stvg.heads.model_config import FeatureFacts, ModelConfig, TubeDETRConfig
from stvg.heads.table import build_model

from ..encoders import RESNET
from .clips import CLIPS, FACTS, RandomClip, batch, small

RESNET101 = 42_394_816
PAPER = FeatureFacts(RESNET, text_width=768)


def count(**changes: object) -> int:
    with torch.device("meta"):
        model = build_model(replace(ModelConfig(), **changes), PAPER)
    return sum(p.numel() for p in model.parameters())


def test_the_paper_head_has_20_259_947_parameters_and_62_654_763_with_its_backbone():
    assert count() == 20_259_947
    assert count() + RESNET101 == 62_654_763


OFF = {"frame_level": False, "video_level": False}
ROWS = {
    "III neither": ({"fusion": FusionConfig(**OFF)}, 18_680_839),
    "III frame only": ({"fusion": FusionConfig(video_level=False)}, 20_259_847),
    "III video only": ({"fusion": FusionConfig(frame_level=False)}, 18_680_939),
    "III both, IV gate, V QMM, VI 5, VIII shared, IX scaling, X": ({}, 20_259_947),
    "IV no gate": ({"fusion": FusionConfig(gate=False)}, 20_259_947 - 2 * 4 * 65_792),
    "V no QMM": ({"qmm": False}, 20_259_947 - 394_752 - 257 - 256 - 4 * 256),
    "VI 1": ({"num_queries": 1}, 20_259_947 - 4 * 256),
    "VI 10": ({"num_queries": 10}, 20_259_947 + 5 * 256),
    "VI 15": ({"num_queries": 15}, 20_259_947 + 10 * 256),
    "VI 25": ({"num_queries": 25}, 20_259_947 + 20 * 256),
    "VII frame": ({"fusion": FusionConfig(video_level=False)}, 18_680_839 + 1_579_008),
    "VIII unshared": ({"shared_decoder": False}, 20_259_947 + 9_472_512),
    "IX no scaling": ({"fusion": FusionConfig(scale=False)}, 20_259_947 - 100),
    "no further levels": ({"region_levels": ()}, 20_259_947 - 394_752),
    "no group norm": ({"proj_norm": "none"}, 20_259_947 - 2 * 2 * 256),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_tables_has_its_number_of_parameters(row):
    change, expected = ROWS[row]
    assert count(**change) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stride": 0}, "at least 1"),
        ({"stride": 1}, "with stride 1 none is"),
    ],
)
def test_a_stride_that_nothing_defines_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(TubeDETRConfig(), **change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"d": 48}, "multiple of 32, the groups of the norm of further levels"),
        ({"d": 48, "heads": 5, "qmm": False}, "multiple of heads = 5"),
        ({"d": 30, "heads": 5, "qmm": False}, "multiple of 4"),
        ({"d": 0}, "d is 0"),
        ({"d": -32}, "d is -32"),
        ({"heads": 0}, "heads is 0"),
        ({"ffn": 0}, "ffn is 0"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"num_queries": 0}, "num_queries is 0"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"encoder_layers": -1}, "encoder_layers is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"span_dropout": -0.1}, "span_dropout is -0.1"),
    ],
    ids=str,
)
def test_a_size_that_no_head_can_have_is_refused_with_the_reason(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(ModelConfig(), **change)


@pytest.mark.parametrize("change", [{"proj_norm": "none"}, {"region_levels": ()}, {"qmm": False}], ids=str)
@pytest.mark.parametrize(("d", "heads"), [(48, 8), (20, 5), (12, 3)])
def test_a_width_is_refused_only_where_a_group_norm_needs_another(change, d, heads):
    with pytest.raises(ValueError, match="multiple of 32"):
        small(d=d, heads=heads)
    *_, output = forward(CLIPS, small(d=d, heads=heads, **change))
    assert all(layer.boxes.isfinite().all() for layer in output.layers)


def doubled(group):
    """Its numbers in float64."""

    def double(value):
        if isinstance(value, dict):
            return {k: v.double() for k, v in value.items()}
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    derived = ("slots", "longest")
    return replace(group, **{k: double(v) for k, v in vars(group).items() if k not in derived})


def forward(clips, config, seed=0, whole=False):
    model = build_model(config, FACTS, seed).double().eval()
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name == "fusion.frame_scale" or name.startswith("fast_residual"):  # zero at the start, which hides them
            torch.nn.init.normal_(parameter)
    inputs, targets = map(doubled, batch(clips, whole))
    return model, inputs, targets, model(inputs, targets)


VARIANTS = [
    {},
    {"whole": True},
    {"region_levels": ()},
    {"proj_norm": "none"},
    {"shared_decoder": False},
    {"cell_map": True, "content_positions": True},
    {"qmm": False},
    {"num_queries": 1},
    {"fusion": {"frame_level": False}},
    {"fusion": {"video_level": False}},
    {"fusion": {"gate": False}},
    {"fusion": {"scale": False}},
    {"head": "tubedetr", "stride": 1, "fast": False},
    {"head": "tubedetr", "fast": False},
    {"head": "tubedetr", "stride": 3},
    {"head": "tubedetr"},
    {"head": "stcat"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_longer_neighbour_in_the_batch_never_changes_a_prediction(variant):
    variant = dict(variant)
    whole = variant.pop("whole", False)
    config = small(**variant)
    *_, together = forward(CLIPS, config, whole=whole)
    for b, clip in enumerate(CLIPS):
        *_, alone = forward([clip], config, whole=whole)
        for many, one in zip(together.layers, alone.layers, strict=True):
            for name in ("boxes", "span", "states"):
                ours = getattr(many, name)[b : b + 1, :, : clip.T]
                torch.testing.assert_close(ours, getattr(one, name), rtol=1e-9, atol=1e-9)
            attention = many.attention[b : b + 1, :, : clip.T, : clip.T]
            torch.testing.assert_close(attention, one.attention, rtol=1e-5, atol=1e-6)
            assert (many.attention[b, :, : clip.T, clip.T :] == 0).all()
        if together.anchor is not None:
            ours = together.anchor.states[b : b + 1, : clip.T]
            torch.testing.assert_close(ours, alone.anchor.states, rtol=1e-9, atol=1e-9)


def test_gradients_of_a_padded_batch_are_the_sum_of_single_ones():
    """With a loss that is a plain sum over real slots, batching changes no gradient either."""

    def gradients(clips):
        model, inputs, _, output = forward(clips, small())
        real = ~inputs.frame_padding
        loss = sum(
            (layer.boxes.transpose(1, 2)[real].square().sum() + layer.span.transpose(1, 2)[real].sum())
            for layer in output.layers
        )
        loss = loss + output.anchor.states.square().sum()
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    together = gradients(CLIPS)
    singles = [gradients([c]) for c in CLIPS]
    for name, gradient in together.items():
        expected = sum(s[name] for s in singles) if gradient is not None else None
        if gradient is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-7, msg=name)


def test_memory_of_a_frame_reaches_only_the_queries_of_that_frame_within_one_layer():
    config = small(decoder_layers=1)
    model, inputs, _, _ = forward(CLIPS[:1], config)
    (memory, position, padding), _ = model.encode(inputs)
    query = torch.randn(1, 3, 7, 32, dtype=torch.float64)

    def decoded(memory):
        return model.decoder([Stream(query, inputs.frame_padding, memory.flatten(0, 1), position, padding)])[0]

    changed = memory.clone()
    changed[:, 4] += 1
    before, after = decoded(memory), decoded(changed)
    moved = (before[0] - after[0]).abs().amax(dim=(0, 1, 3))
    assert moved[4] > 1e-3
    assert (moved[[0, 1, 2, 3, 5, 6]] == 0).all()


def test_permuting_the_queries_permutes_the_tubes():
    model, inputs, _, output = forward(CLIPS, small())
    order = [2, 0, 1]
    with torch.no_grad():
        model.query_embed.weight.copy_(model.query_embed.weight[order].clone())
    permuted = model(inputs)
    torch.testing.assert_close(permuted.layers[-1].boxes, output.layers[-1].boxes[:, order], rtol=1e-9, atol=1e-9)


def test_the_answer_without_targets_is_the_answer_with_them():
    model, inputs, _, output = forward(CLIPS, small())
    blind = model(inputs)
    assert blind.anchor is None
    torch.testing.assert_close(blind.layers[-1].boxes, output.layers[-1].boxes, rtol=0, atol=1e-14)


def test_every_parameter_gets_a_gradient_from_the_full_objective():
    model, inputs, targets, output = forward(CLIPS, small())
    losses = Criterion(LossConfig())(output, targets, inputs.frame_padding)
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias shifts all scores of a row alike, which softmax cannot see. The first decoder layer's self-attention
    # mixes contents that are still zero.
    first = "decoder.layers.0."
    expected = {first + "self_attn.out_proj.weight", first + "norm1.weight"}
    assert {n for n in missing if not n.endswith("key.bias")} == expected


@pytest.mark.parametrize("T", [1, 2])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_smallest_clips_give_finite_losses_and_gradients(T, queries):
    torch.manual_seed(0)
    model = build_model(small(num_queries=queries), FACTS).train()
    inputs, targets = batch([RandomClip(T=T, h=1, w=1, M=1, first=T - 1, last=T - 1, seed=4)])
    losses = Criterion(LossConfig())(model(inputs, targets), targets, inputs.frame_padding)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_float32_agrees_with_float64():
    _, _, _, reference = forward(CLIPS, small())
    model = build_model(small(), FACTS, 0).eval()
    torch.manual_seed(5)
    torch.nn.init.normal_(model.fusion.frame_scale)
    inputs, targets = batch(CLIPS)
    single = model(inputs, targets)
    for name in ("boxes", "span"):
        exact = getattr(reference.layers[-1], name)
        error = (getattr(single.layers[-1], name).double() - exact).abs().max() / exact.abs().max()
        assert error < 1e-5


def test_all_frames_weigh_the_same_at_the_start():
    model = build_model(small(), FACTS)
    assert torch.equal(model.fusion.frame_scale.tanh() + 1, torch.ones(12))


@pytest.mark.parametrize("cell_map", [False, True])
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bf16"])
def test_layers_that_are_computed_again_give_the_same_bits_and_keep_less(amp, cell_map):
    """Dropout included: what is drawn the second time is what was drawn the first."""

    def step(recompute):
        model = build_model(small(dropout=0.2, cell_map=cell_map), FACTS, 0).train()
        model.recompute(recompute)
        inputs, targets = batch(CLIPS)
        sizes = []
        torch.manual_seed(7)
        counted = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t)
        with counted, torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = model(inputs, targets)
        losses = Criterion(LossConfig())(output, targets, inputs.frame_padding)
        torch.stack(list(losses.values())).sum().backward()
        return sum(sizes), losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    kept, losses, gradients = step(recompute=False)
    less, same_losses, same = step(recompute=True)
    assert all(torch.equal(losses[k], same_losses[k]) for k in losses)
    assert gradients.keys() == same.keys()
    assert all(torch.equal(g, same[n]) for n, g in gradients.items())
    assert less < 0.44 * kept
