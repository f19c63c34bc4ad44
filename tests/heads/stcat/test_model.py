"""STCAT from its published weights: every recorded tensor, through our modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stvg.heads.attention import split_heads
from stvg.heads.layers import sine_2d, time_code
from stvg.heads.model_config import FeatureFacts
from stvg.heads.stcat.anchors import box_sine, inverse_sigmoid
from stvg.heads.stcat.config import STCATConfig
from stvg.heads.stcat.model import STCAT

from ...encoders import RESNET
from ..test_tubedetr import seen_weights
from .recorded import LAYERS, Case, imported, tensors

CASES = ("single", "one_frame", "short_text", "long_text", "portrait_pad", "batch_pad", "long_clip")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared / "golden", request.param)


def test_encoder_inputs_and_every_encoder_layer_equal_the_recorded_ones(case: Case) -> None:
    r, (B, T) = case.recorded, case.real.shape
    code = sine_2d(case.inputs.cell_padding, 64).permute(0, 3, 1, 2)
    torch.testing.assert_close(code, r["pos"], rtol=0, atol=1e-4)
    words = ~r["text_mask"]
    torch.testing.assert_close(
        case.seen["resizer"][0][1][words], r["text_resized"].transpose(0, 1)[words], rtol=0, atol=1e-4
    )
    (source, _, hides), _ = case.seen["encoder.spatial_layers.0"][0]
    padding = hides[:, 0, 0] != 0
    assert torch.equal(padding.unflatten(0, (B, T))[case.real], r["enc_mask"])
    keep = ~padding.unflatten(0, (B, T)) & case.real[..., None]
    compared = [(source, r.get("enc_src"), "enc_src")]
    compared += [
        (case.seen[f"encoder.spatial_layers.{i}"][0][1], r[f"enc_layer{i}.spatial"], f"spatial {i}") for i in LAYERS
    ]
    for ours, theirs, what in compared:
        if theirs is not None:
            case.equal(ours.unflatten(0, (B, T)), case.by_slot(theirs.transpose(0, 1)), 1e-4, what, keep)
    with_video = torch.cat([torch.ones(B, 1, dtype=torch.bool), case.real], dim=1)
    for i in LAYERS:
        ours, theirs = case.seen[f"encoder.temporal_layers.{i}"][0][1], r[f"enc_layer{i}.temporal"].transpose(0, 1)
        case.equal(ours, theirs, 1e-4, f"temporal {i}", with_video)


def test_tokens_memory_and_template_equal_the_recorded_ones(case: Case) -> None:
    r, (B, T) = case.recorded, case.real.shape
    (_, _, padding, _), (memory, frames, video) = case.seen["encoder"][0]
    assert torch.equal(padding[:, None].expand(B, T, -1)[case.real], r["memory_mask"])
    keep = ~padding[:, None] & case.real[..., None]
    last = case.by_slot(r[f"enc_layer{LAYERS[-1]}.spatial"][1:].transpose(0, 1))
    case.equal(memory, last, 1e-4, "memory", keep)
    case.equal(frames, case.by_slot(r["frame_tokens"]), 1e-4, "frame tokens")
    torch.testing.assert_close(video, r["video_token"], rtol=0, atol=1e-4)
    logits, content = case.seen["template"][0][1]
    case.equal(logits, case.by_slot(r["anchor_logits"]), 1e-4, "anchor logits")
    case.equal(content[:, None].expand(B, T, -1), case.by_slot(r["content"]), 1e-4, "content")


def test_every_spatial_decoder_layer_equals_the_recorded_one(case: Case) -> None:
    r = case.recorded
    pairs = case.real[:, :, None] & case.real[:, None]
    for i in LAYERS:
        (x, place, sine, *_), out = case.seen[f"spatial_decoder.layers.{i}"][0]
        assert i or not x.any()
        for ours, name in ((place, "query_pos"), (sine, "sine"), (out, "out")):
            case.equal(ours, r[f"spatial{i}.{name}"].transpose(0, 1), 1e-4, f"{name} {i}")
        case.equal(self_weights(case, i), r[f"spatial{i}.self_attn"], 2e-5, f"self-attention {i}", pairs)
        case.equal(
            placed_weights(case, i), case.by_slot(r[f"spatial{i}.cross_attn"])[:, :, 0], 2e-5, f"cross-attention {i}"
        )
    states, references = case.seen["spatial_decoder"][0][1]
    for i in LAYERS:
        case.equal(references[i], r["anchors"][i], 2e-5, f"anchors {i}")
        case.equal(states[i], r["hs"][i], 1e-4, f"hs {i}")


def test_every_temporal_decoder_layer_and_every_output_equals_the_recorded_one(case: Case) -> None:
    r, (B, T) = case.recorded, case.real.shape
    pairs = case.real[:, :, None] & case.real[:, None]
    for i, layer in enumerate(case.output.layers):
        out = case.seen[f"temporal_decoder.layers.{i}"][0][1][0]
        case.equal(out[:, 0], r[f"temporal{i}.out"].transpose(0, 1), 1e-4, f"temporal out {i}")
        case.equal(
            glance_weights(case, i), case.by_slot(r[f"temporal{i}.cross_attn"])[:, :, 0], 2e-5, f"cross-attention {i}"
        )
        case.equal(layer.states[:, 0], r["time_hs"][i], 1e-4, f"time_hs {i}")
        case.equal(layer.reference, r["anchors"][i], 2e-5, f"reference {i}")
        case.equal(layer.boxes[:, 0], r[f"layer{i}.pred_boxes"].unflatten(0, (B, T)), 2e-5, f"boxes {i}")
        case.equal(layer.span[:, 0], r[f"layer{i}.pred_sted"], 1e-4, f"span {i}")
        case.equal(layer.action, r[f"layer{i}.pred_actioness"][..., 0], 1e-4, f"actionness {i}")
        case.equal(layer.attention[:, 0], r[f"layer{i}.attention"], 2e-5, f"attention {i}", pairs)
        assert layer.score is None


def test_a_padded_batch_equals_its_videos_alone_both_recorded_and_ours(shared: Path) -> None:
    case = Case(shared / "golden", "batch_pad")
    for b, T in enumerate(case.facts["durations"]):
        recorded = {k.partition(".")[2]: v for k, v in case.recorded.items() if k.startswith(f"unbatched{b}.")}
        assert recorded
        with torch.no_grad():
            alone = case.model(case.alone(b)).layers
        for layer, by_itself in zip(case.output.layers, alone, strict=True):
            for name, atol in (("boxes", 2e-5), ("span", 1e-4), ("action", 1e-4)):
                ours, single = getattr(layer, name), getattr(by_itself, name)
                ours = ours[b, :T] if name == "action" else ours[b, :, :T]
                torch.testing.assert_close(ours, single[0], rtol=0, atol=atol)
        last = case.output.layers[-1]
        torch.testing.assert_close(last.boxes[b, 0, :T], recorded["pred_boxes"], rtol=0, atol=2e-5)
        torch.testing.assert_close(last.span[b, 0, :T], recorded["pred_sted"].view(T, 2), rtol=0, atol=1e-4)
        torch.testing.assert_close(last.action[b, :T], recorded["pred_actioness"].view(T), rtol=0, atol=1e-4)


def test_sentences_of_one_video_share_its_frames(shared: Path) -> None:
    """Two samples on one set of frames give what each gives with frames of its own."""
    case = Case(shared / "golden", "single")
    from dataclasses import replace

    index, padding = case.inputs.frame_index.repeat(2, 1), case.inputs.frame_padding.repeat(2, 1)
    words = torch.cat([case.inputs.tokens, case.inputs.tokens.flip(1)])
    both = replace(
        case.inputs,
        frame_index=index,
        frame_padding=padding,
        tokens=words,
        token_padding=case.inputs.token_padding.repeat(2, 1),
    )
    other = replace(case.inputs, tokens=words[1:])
    with torch.no_grad():
        together, alone = case.model(both).layers[-1], case.model(other).layers[-1]
    torch.testing.assert_close(together.boxes[0], case.output.layers[-1].boxes[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together.boxes[1], alone.boxes[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together.span[1], alone.span[0], rtol=0, atol=1e-5)


def test_the_tables_equal_the_recorded_ones(shared: Path) -> None:
    every = tensors(shared / "golden", "stcat_small_io.safetensors")
    for d in (64, 256):
        torch.testing.assert_close(
            box_sine(every["tables/boxes"], d), every[f"tables/box_sine_d{d}"], rtol=0, atol=1e-4
        )
    x, y = every["tables/inverse_sigmoid_x"], every["tables/inverse_sigmoid_y"]
    torch.testing.assert_close(inverse_sigmoid(x), y, rtol=0, atol=1e-5)
    published = tensors(shared / "golden", "stcat_small.safetensors")
    for name in ("ground_encoder.encoder.time_embed.te", "ground_decoder.time_embed.te"):
        times = published[name][:, 0]
        torch.testing.assert_close(time_code(len(times), 64), times, rtol=0, atol=5e-5)


def test_the_published_size_has_the_published_parameters() -> None:
    """39,860,235: the published 40,320,779 without what its code never uses."""
    with torch.device("meta"):
        model = STCAT(STCATConfig(), FeatureFacts(RESNET[-1:], 768))

    def count(*places: str) -> int:
        return sum(p.numel() for n, p in model.named_parameters() if n.startswith(places))

    assert count("") == 40_320_779 - 65_792 - 394_752
    parts = {
        "input_proj": 524_544,
        "resizer": 197_376,
        "encoder.spatial_layers": 7_890_432,
        "encoder.temporal_layers": 7_890_432,
        "template": 198_404,
        "spatial_decoder.layers.0.": 2_302_464 - 65_792,
        "spatial_decoder.layers.1.": 2_236_672 - 65_792,
        "spatial_decoder.query_scale": 131_584,
        "spatial_decoder.ref_point_head": 197_120,
        "spatial_decoder.norm": 512,
        "temporal_decoder": 9_473_024,
        "bbox_embed": 132_612,
        "temp_embed": 66_306,
        "action_embed": 66_049,
    }
    assert {k: count(k) for k in parts} == parts


@pytest.mark.parametrize("training", [False, True])
def test_recomputing_layers_changes_no_gradient(shared: Path, training: bool) -> None:
    case, found = Case(shared / "golden", "batch_pad"), []
    for on in (False, True):
        model = imported(shared / "golden").train(training)
        model.recompute(on)
        torch.manual_seed(0)
        layers = model(case.inputs).layers
        sum((x.boxes.sum() + x.span.square().sum() + x.action.square().sum()) for x in layers).backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_bfloat16_stays_near_float32_and_gives_boxes_in_float32(shared: Path) -> None:
    case = Case(shared / "golden", "batch_pad")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = case.model(case.inputs).layers[-1]
    last = case.output.layers[-1]
    for name, atol in (("boxes", 0.05), ("span", 0.3), ("attention", 0.05)):
        ours = getattr(half, name)
        assert ours.dtype == torch.float32, name
        real = case.real[:, None, :, None] & case.real[:, None, None] if name == "attention" else case.real[:, None]
        torch.testing.assert_close(ours[real], getattr(last, name)[real], rtol=0, atol=atol)


def self_weights(case: Case, layer: int) -> Tensor:
    """Temporal attention of a spatial layer (B, T, T), mean over heads, recomputed from what went into it."""
    module = case.model.spatial_decoder.layers[layer].self_attn
    (query, key, _, hides), _ = case.seen[f"spatial_decoder.layers.{layer}.self_attn"][0]
    parts = zip((query, key), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=False)
    q, k = (split_heads(F.linear(x, w, b), module.heads) for x, w, b in parts)
    return softmax(q, k, hides)


def placed_weights(case: Case, layer: int) -> Tensor:
    """Cross-attention of a spatial layer (B, T, S), mean over heads."""
    name = f"spatial_decoder.layers.{layer}"
    module = case.model.spatial_decoder.layers[layer]
    (_, _, _, _, memory, code, hides, _), _ = case.seen[name][0]
    query, place = (case.seen[f"{name}.{part}"][0][1] for part in ("ca_qcontent_proj", "ca_qpos_sine_proj"))
    where = module.ca_kpos_proj(code)[:, None].expand_as(memory)
    key = module.ca_kcontent_proj(memory)
    if layer == 0:
        query, key = query + case.seen[f"{name}.ca_qpos_proj"][0][1], key + where
    queries, keys = (
        [split_heads(t.flatten(0, 1), 4) for t in parts]
        for parts in ((query[:, :, None], place[:, :, None]), (key, where))
    )
    return softmax(torch.cat(queries, dim=-1), torch.cat(keys, dim=-1), hides)[:, 0].unflatten(0, case.real.shape)


def glance_weights(case: Case, layer: int) -> Tensor:
    """Cross-attention of a temporal layer (B, T, S), mean over heads."""
    module = case.model.temporal_decoder.layers[layer].cross_attn_image
    (query, (seen,)), _ = case.seen[f"temporal_decoder.layers.{layer}.cross_attn_image"][0]
    return seen_weights(module, query, seen)[:, 0].unflatten(0, case.real.shape)


def softmax(q: Tensor, k: Tensor, hides: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + hides).softmax(-1).mean(1)
