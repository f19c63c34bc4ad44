"""Semantic matching: eqs 1, 2 and 4 give the recorded numbers, and words never attend to padding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stvg.heads.fsm.fusion import Fusion, FusionConfig, GatedMatching
from stvg.heads.published_names import MATCHING

LINEARS = {theirs: ours for theirs, ours in MATCHING.items() if theirs != "outputs"} | {"output": "out"}
"""Published name → ours, up to the projection that was recorded; the published code mixes once more behind it."""


@pytest.fixture(scope="module")
def arrays(shared):
    return {k: torch.from_numpy(v) for k, v in np.load(shared / "golden/fsm_isolated.npz").items()}


@pytest.fixture(scope="module")
def matching(arrays):
    module = GatedMatching(64, gate=True, dropout=0.1).eval()
    weights = {
        f"{ours}.{kind}": arrays[f"gated_attention/weights/{theirs}.conv1d.{kind}"]
        for theirs, ours in LINEARS.items()
        for kind in ("weight", "bias")
    }
    weights = {k: v.squeeze(-1) if k.endswith("weight") else v for k, v in weights.items()}
    left = module.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    assert {k.rpartition(".")[0] for k in left.missing_keys} == {"gates.score", "gates.value"}  # eq 3: never published
    return module


@torch.no_grad()
def gated(matching, x, y, x_padding=None, y_padding=None):
    rows = torch.arange(len(x))
    none = [torch.zeros(t.shape[:2], dtype=torch.bool) for t in (x, y)]
    return matching.gated(
        x, y, none[0] if x_padding is None else x_padding, none[1] if y_padding is None else y_padding, rows, rows
    )


def case(arrays, name):
    return (arrays[f"gated_attention/{name}/{k}"] for k in ("from", "to", "from_mask", "to_mask", "gated", "output"))


def test_gated_self_and_cross_attention_equal_the_recorded_ones(arrays, matching):
    x, y, x_padding, y_padding, expected, output = case(arrays, "no_padding")
    assert not x_padding.any()
    assert not y_padding.any()
    found = gated(matching, x, y, x_padding, y_padding)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(matching.out(found).detach(), output, rtol=0, atol=1e-4)


def test_padded_keys_leak_in_the_published_code_and_not_here(arrays, matching):
    x, y, x_padding, y_padding, leaking, _ = case(arrays, "padding")
    assert x_padding.any()
    assert y_padding.any()
    # A real query there sees every key, as if nothing were masked.
    torch.testing.assert_close(gated(matching, x, y)[~x_padding], leaking[~x_padding], rtol=0, atol=1e-4)
    found = gated(matching, x, y, x_padding, y_padding)
    for b in range(len(x)):
        a, c = x[b : b + 1, ~x_padding[b]], y[b : b + 1, ~y_padding[b]]
        real = found[b : b + 1, ~x_padding[b]]
        torch.testing.assert_close(real, gated(matching, a, c), rtol=0, atol=1e-5)
        if x_padding[b].any() or y_padding[b].any():
            assert (real - leaking[b : b + 1, ~x_padding[b]]).abs().max() > 1e-3


def test_frame_weights_of_normalised_vectors_give_the_recorded_sentence_gate(arrays):
    """The published code normalises both vectors and leaves 1/sqrt(d) out; scaled by d^(1/4) each, ours cancels it."""
    frames, sentence, tokens, expected = (
        arrays[f"sentence_gate/a/{k}"] for k in ("frames", "sentence", "tokens", "output")
    )
    d, T = frames.shape[-1], frames.shape[1]

    def normal(t):
        return F.layer_norm(t, (d,), eps=1e-6)

    fusion = Fusion(d, T, FusionConfig(frame_level=False), dropout=0.1).eval()
    none = torch.zeros(1, T, 1, dtype=torch.bool)
    words = (normal(sentence) * d**0.25)[:, None].expand(-1, T, -1, -1)
    similarity = fusion.similarity((normal(frames) * d**0.25)[:, :, None], words, none, none[:, 0], none[..., 0])
    weights = fusion.frame_weights(similarity)
    gate = (normal(frames)[0] @ normal(sentence)[0, 0]).sigmoid()
    torch.testing.assert_close(weights[0], gate, rtol=0, atol=1e-5)
    # What the published code does with them: a residual, a norm, a linear layer, another residual.
    weight, bias = arrays["sentence_gate/weights/proj.weight"].squeeze(-1), arrays["sentence_gate/weights/proj.bias"]
    mixed = F.linear(normal(tokens + tokens * weights[0, None, :, None].detach()), weight, bias)
    torch.testing.assert_close(mixed + tokens, expected, rtol=0, atol=1e-4)


def test_layer_norm_without_parameters_equals_the_recorded_one(arrays):
    x, y = arrays["plain_layer_norm/x"], arrays["plain_layer_norm/y"]
    torch.testing.assert_close(F.layer_norm(x, (64,), eps=1e-6), y, rtol=0, atol=1e-4)


def test_the_recorded_pieces_are_all_compared(shared):
    """query_contrast and query_label are losses, and compared there."""
    recorded = {c["component"] for c in json.loads((shared / "golden/fsm_isolated.json").read_text())["cases"]}
    assert recorded == {"gated_attention", "sentence_gate", "query_contrast", "query_label"}
