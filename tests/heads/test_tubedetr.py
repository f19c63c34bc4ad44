"""The baseline as a preset: a published checkpoint's weights, run through our modules, give its recorded activations."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from stvg.cache.batches.batch import Inputs
from stvg.cache.schema import Level
from stvg.heads.attention import split_heads
from stvg.heads.decoder import CrossAttention, Seen
from stvg.heads.import_weights import translate
from stvg.heads.layers import sine_2d, time_code
from stvg.heads.model import Output
from stvg.heads.model_config import FeatureFacts, TubeDETRConfig
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.tubedetr import TubeDETR

from ..encoders import RESNET
from .golden import RecordedRun

CASES = ("s0_single", "s0_batch", "s0_batch_pad", "s2_fast_single", "s4_fast_batch_pad", "s5_slow_single")


def imported(path: Path, config: TubeDETRConfig) -> TubeDETR:
    """A head with the weights of the small recorded model; the fast branch's are left out where there is none."""
    published = load_file(path)
    times = published["transformer.time_embed.te"]
    torch.testing.assert_close(time_code(len(times), config.d), times[:, 0], rtol=0, atol=5e-5)
    tensors = translate(published, path)[0]["head"]
    if not config.fast:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("fast_")}
    facts = FeatureFacts((Level("c5", tensors["input_proj.weight"].shape[1], 32),), text_width=768)
    model = build_model(config, facts).eval()
    model.load_state_dict(tensors, strict=True)
    return model


class Case(RecordedRun):
    """One recorded run, and ours of the same inputs."""

    head = "tubedetr_small"

    @cached_property
    def stride(self) -> int:
        return max(self.facts["stride"], 1)

    @cached_property
    def config(self) -> TubeDETRConfig:
        return TubeDETRConfig(
            d=64,
            ffn=128,
            encoder_layers=2,
            decoder_layers=2,
            max_frames=200,
            stride=self.stride,
            fast=self.facts["fast"],
        )

    @cached_property
    def inputs(self) -> Inputs:
        durations = torch.tensor(self.facts["durations"])
        B, T = len(durations), int(durations.max())
        frame_padding = torch.arange(T) >= durations[:, None]
        c5, cells = self.recorded["c5"].float().permute(0, 2, 3, 1), self.recorded["c5_mask"]
        if self.stride > 1 and not self.config.fast:  # only the frames that are encoded were recorded
            frames = torch.full((T, *c5.shape[1:]), torch.nan)
            frames[:: self.stride], c5 = c5, frames
            cells = cells[:1].expand(T, -1, -1)
        first = durations.cumsum(0) - durations
        frame_index = torch.where(frame_padding, first[:, None], first[:, None] + torch.arange(T))
        assert frame_index.shape == (B, T)
        tokens = self.recorded["text_hidden"].transpose(0, 1)
        return Inputs(c5, cells, frame_index, frame_padding, tokens, self.recorded["text_mask"])

    @cached_property
    def model(self) -> TubeDETR:
        return imported(self.folder / "tubedetr_small.safetensors", self.config)

    @cached_property
    def seen(self) -> dict[str, list]:
        """What went into and out of the modules during the run: lists of (arguments, result), in order of calls."""
        calls: dict[str, list] = {}
        for name, module in self.model.named_modules():
            module.register_forward_hook(lambda m, a, r, name=name: calls.setdefault(name, []).append((a, r)))
        with torch.no_grad():
            calls["output"] = [self.model(self.inputs)]
        return calls

    @property
    def output(self) -> Output:
        return self.seen["output"][0]

    @cached_property
    def real(self) -> Tensor:
        """(B, T): rows that mean something."""
        return ~self.inputs.frame_padding

    def equal(self, ours: Tensor, theirs: Tensor, rows: Tensor, atol: float, what: str) -> None:
        """Compare the real rows of two (B, T, …) tensors."""
        assert ours.shape == theirs.shape, (self.name, what)
        torch.testing.assert_close(
            ours[rows], theirs[rows], rtol=0, atol=atol, msg=lambda m: f"{self.name} {what}: {m}"
        )


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared / "golden", request.param)


def test_encoder_inputs_and_every_encoder_layer_equal_the_recorded_ones(case: Case) -> None:
    r = case.recorded
    B = len(case.real)
    recorded = slice(None, None, case.stride) if len(r["pos"]) < len(case.inputs.maps) else slice(None)
    code = sine_2d(case.inputs.cell_padding, 64)[recorded].permute(0, 3, 1, 2)
    torch.testing.assert_close(code, r["pos"], rtol=0, atol=1e-5)
    words = (~r["text_mask"]).nonzero(as_tuple=True)
    resized = case.seen["resizer"][0][1]
    torch.testing.assert_close(resized[words], r["text_resized"].transpose(0, 1)[words], rtol=0, atol=1e-4)

    slow = case.real[:, :: case.stride]
    (source, position, padding), _ = case.seen["encoder"][0]
    assert source.shape[:2] == slow.shape, "only every stride-th slot is encoded"
    position, padding = (t[:, None].expand(-1, slow.shape[1], *t.shape[1:]) for t in (position, padding))
    keep = ~padding & slow[..., None]
    assert torch.equal(padding[slow], r["enc_mask"].unflatten(0, (B, -1))[slow])
    compared = [(source, "enc_src", 1e-4), (position, "enc_pos", 1e-5)]
    layers = [case.seen[f"encoder.layers.{i}"][0][1].unflatten(0, (B, -1)) for i in range(2)]
    compared += [(layer, f"enc_layer{i}", 1e-4) for i, layer in enumerate(layers)]
    for found, name, atol in compared:
        case.equal(found, r[name].transpose(0, 1).unflatten(0, (B, -1)), keep, atol, name)


def test_decoder_memory_and_query_positions_equal_the_recorded_ones(case: Case) -> None:
    r = case.recorded
    B, T = case.real.shape
    (((stream,), *_), _), *_ = case.seen["decoder"]
    memory, position = stream.memory.unflatten(0, (B, T)), stream.position.expand(B, -1, -1, -1)
    memory_position, padding = (t[:, None].expand(-1, T, *t.shape[1:]) for t in (stream.code, stream.memory_padding))
    assert torch.equal(padding[case.real], r["dec_memory_mask"].unflatten(0, (B, T))[case.real])
    keep = ~padding & case.real[..., None]
    for found, name, atol in ((memory, "dec_memory", 1e-4), (memory_position, "dec_memory_pos", 1e-5)):
        case.equal(found, r[name].transpose(0, 1).unflatten(0, (B, T)), keep, atol, name)
    torch.testing.assert_close(position[:, 0], r["dec_query_pos"].transpose(0, 1), rtol=0, atol=5e-5)
    if "dec_query_mask" in r:
        assert torch.equal(stream.padding, r["dec_query_mask"])


def cross_weights(case: Case, layer: int) -> Tensor:
    """Cross-attention weights (B, T, S), mean over heads, recomputed from what went into the module."""
    module = case.model.decoder.layers[layer].cross_attn_image
    (query, (seen,)), _ = case.seen[f"decoder.layers.{layer}.cross_attn_image"][0]
    return seen_weights(module, query, seen)[:, 0].unflatten(0, case.real.shape)


def seen_weights(module: CrossAttention, query: Tensor, seen: Seen) -> Tensor:
    """(B·T, n, S): how much the queries (B, n, T, d) look at what they see, mean over heads."""
    d = query.shape[-1]
    (of_query, of_key), (query_bias, key_bias) = (t.split(d)[:2] for t in (module.in_proj_weight, module.in_proj_bias))
    q = F.linear(query, of_query, query_bias).transpose(1, 2).flatten(0, 1)
    assert seen.memory is not None
    assert seen.code is not None
    assert seen.hides is not None
    placed = seen.memory + seen.code.repeat_interleave(len(seen.memory) // len(seen.code), 0)
    q, k = split_heads(q, module.heads), split_heads(F.linear(placed, of_key, key_bias), module.heads)
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + seen.hides).softmax(-1).mean(1)


def test_every_decoder_layer_equals_the_recorded_one(case: Case) -> None:
    """At stride 1 the baseline lets padding into temporal attention: there only the longest videos are right as batched."""
    r = case.recorded
    B, T = case.real.shape
    rows = case.real & case.real.all(1, keepdim=True) if case.stride == 1 else case.real
    pairs = rows[:, :, None] & case.real[:, None]
    assert rows.any()
    for i, layer in enumerate(case.output.layers):
        case.equal(layer.states[:, 0], r["hs"][i], rows, 1e-4, f"hs {i}")
        case.equal(layer.boxes[:, 0], r[f"layer{i}.pred_boxes"].unflatten(0, (B, T)), rows, 2e-5, f"boxes {i}")
        case.equal(layer.span[:, 0], r[f"layer{i}.pred_sted"], rows, 1e-4, f"span {i}")
        case.equal(layer.attention[:, 0], r[f"layer{i}.self_attn"], pairs, 2e-5, f"attention {i}")
        theirs = r[f"layer{i}.cross_attn"].unflatten(0, (B, T))[:, :, 0]
        case.equal(cross_weights(case, i), theirs, rows, 2e-5, f"cross-attention {i}")


@pytest.mark.parametrize("name", ["s0_batch", "s0_batch_pad"])
def test_a_padded_batch_gives_what_the_baseline_gives_for_each_video_alone(shared: Path, name: str) -> None:
    case = Case(shared / "golden", name)
    last = case.output.layers[-1]
    for b, T in enumerate(case.facts["durations"]):
        alone = {k.partition(".")[2]: v for k, v in case.recorded.items() if k.startswith(f"unbatched{b}.")}
        torch.testing.assert_close(last.boxes[b, 0, :T], alone["pred_boxes"], rtol=0, atol=2e-5)
        torch.testing.assert_close(last.span[b, 0, :T], alone["pred_sted"], rtol=0, atol=1e-4)
        torch.testing.assert_close(last.attention[b, 0, :T, :T], alone["self_attn"], rtol=0, atol=2e-5)


def test_frames_between_encoded_ones_cost_nothing_without_the_fast_branch(shared: Path) -> None:
    case = Case(shared / "golden", "s5_slow_single")
    assert case.inputs.maps[1].isnan().all()
    (read, *_), _ = case.seen["input_proj"][0]
    assert len(read) == case.facts["n_clips"] == 3
    assert case.output.layers[-1].boxes.isfinite().all()


def test_the_preset_is_the_published_head_to_the_parameter() -> None:
    """Published: 60,810,950 without the text encoder, of which ResNet-101 42,394,816 (its norms are buffers)."""
    config = load_experiment("tubedetr").model
    with torch.device("meta"):
        model = build_model(config, FeatureFacts(RESNET, 768))
    counts = {n: p.numel() for n, p in model.named_parameters()}
    assert sum(counts.values()) == 60_810_950 - 42_394_816
    assert sum(v for n, v in counts.items() if n.startswith("fast_")) == 2 * 65_792


def test_a_new_fast_branch_changes_nothing_yet(shared: Path) -> None:
    case = Case(shared / "golden", "s2_fast_single")
    model = imported(case.folder / "tubedetr_small.safetensors", case.config)
    fresh = build_model(case.config, model.features)
    np.testing.assert_array_equal(fresh.fast_residual.weight.detach(), 0)
    np.testing.assert_array_equal(fresh.fast_residual.bias.detach(), 0)
    memory = torch.randn(1, 2, 25, 64)
    assert torch.equal(fresh.correct(memory, torch.randn(2, 20, 64), torch.tensor([[0, 1]])), memory)
