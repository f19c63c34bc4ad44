"""Published checkpoints: every tensor lands or is accounted for, what is incomplete is refused, and nothing is ever run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stvg.cache.index import Cache
from stvg.errors import CheckpointError, UsageError
from stvg.extract.encoders.backbone import build_backbone
from stvg.heads.checkpoint import load_checkpoint
from stvg.heads.import_weights import HEAD_FORMAT, encoder_shapes, import_weights, translate
from stvg.heads.initial import fit_queries, start_from
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model

from ..encoders import RESNET

Shapes = dict[str, tuple[int, ...]]
D, FFN, LAYERS = 64, 96, 2
"""Of the small heads; their encoders have published sizes."""


def attention(name: str) -> Shapes:
    return {f"{name}.in_proj_weight": (3 * D, D), f"{name}.in_proj_bias": (3 * D,), **linear(f"{name}.out_proj", D, D)}


def linear(name: str, inputs: int, outputs: int, *more: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *more), f"{name}.bias": (outputs,)}


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def stack(name: str, attentions: tuple[str, ...], norms: str) -> Shapes:
    found: Shapes = {}
    for i in range(LAYERS):
        at = f"{name}.layers.{i}"
        for kind in attentions:
            found |= attention(f"{at}.{kind}")
        found |= linear(f"{at}.linear1", D, FFN) | linear(f"{at}.linear2", FFN, D)
        for number in norms:
            found |= norm(f"{at}.norm{number}")
    return found


def head(queries: int) -> Shapes:
    """What MDETR and all that came of it share."""
    found = stack("transformer.encoder", ("self_attn",), "12")
    found |= stack("transformer.decoder", ("self_attn", "cross_attn_image"), "134") | norm("transformer.decoder.norm")
    found |= linear("transformer.resizer.fc", 768, D) | norm("transformer.resizer.layer_norm")
    found |= linear("input_proj", 2048, D, 1, 1) | {"query_embed.weight": (queries, D)}
    for i, outputs in enumerate((D, D, 4)):
        found |= linear(f"bbox_embed.layers.{i}", D, outputs)
    return found


def encoders() -> Shapes:
    found = {f"backbone.0.body.{k}": v for k, v in encoder_shapes("backbone").items()}
    found |= {f"transformer.text_encoder.{k}": v for k, v in encoder_shapes("text").items()}
    return found | {"transformer.text_encoder.embeddings.position_ids": (1, 514)}


def sted(name: str = "sted_embed") -> Shapes:
    return linear(f"{name}.layers.0", D, D) | linear(f"{name}.layers.1", D, 2)


def mdetr() -> Shapes:
    found = head(100) | linear("class_embed", D, 256)
    return (
        found | linear("contrastive_align_projection_image", D, 64) | linear("contrastive_align_projection_text", D, 64)
    )


def tubedetr(fast: bool = True) -> Shapes:
    found = head(1) | sted() | {"transformer.time_embed.te": (200, 1, D)}
    return found | (
        linear("transformer.fast_encoder", D, D) | linear("transformer.fast_residual", D, D) if fast else {}
    )


def fsm() -> Shapes:
    found = head(5) | sted() | {"transformer.time_embed.te": (100, 1, D), "bbox_query_embed.weight": (1, D)}
    found |= linear("class_embeding", D, 1)
    for i, channels in enumerate((512, 1024)):
        found |= linear(f"input_proj_pre.{i}.0", channels, D, 1, 1) | norm(f"input_proj_pre.{i}.1")
    for i, outputs in enumerate((D, D, 4)):
        found |= linear(f"hsbbox_embed.layers.{i}", D, outputs)
    layers = ("query", "f_key", "f_value", "t_key", "t_value", "s_value", "x_value", "s_score", "x_score", "output", "outputs", "outputs_2")  # fmt: skip  # noqa: E501
    for branch in ("seg", "word"):
        for name in layers:
            found |= linear(f"transformer.dual_attn_bloack_{branch}.dual_multi_attention.{name}.conv1d", D, D, 1)
    found |= {"transformer.cross_tweight.w4C": (100, 1)} | attention("transformer.cross_tweight.cross_attn")
    found |= {k.replace("decoder.layers", "decoder.bbox_layers"): v for k, v in found.items() if "decoder.layers" in k}
    return found | sted("transformer.decoder.temp")


def fill(shapes: Shapes) -> dict[str, Tensor]:
    """Every tensor filled with a number of its own, and stored as that one number: whole shapes in a small file."""
    return {k: torch.full((1,), 1.0 + i / 4096).expand(shape) for i, (k, shape) in enumerate(shapes.items())}


LAYOUTS = {"MDETR": mdetr, "TubeDETR": tubedetr, "FSM": fsm}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_published_tensor_lands_under_our_name_or_is_dropped_for_a_reason(kind):
    tensors = fill(encoders() | LAYOUTS[kind]())
    parts, report = translate(tensors, "file")
    assert report.kind == kind
    assert report.unexpected == []
    assert report.matched.keys() | report.dropped.keys() == tensors.keys()
    assert not report.matched.keys() & report.dropped.keys()
    for published, ours in report.matched.items():
        part, name = ours.split(": ")
        assert parts[part][name].flatten()[[0, -1]].tolist() == tensors[published].flatten()[[0, -1]].tolist(), (
            published
        )
    sizes = {part: {k: tuple(v.shape) for k, v in found.items()} for part, found in parts.items()}
    assert sizes["backbone"] == encoder_shapes("backbone")
    assert sizes["text"] == encoder_shapes("text")


def test_the_report_names_what_each_family_lacks():
    lacking = {kind: {m.split(": ")[1].split(".")[0] for m in translate(fill(layout()), "x")[1].missing} for kind, layout in LAYOUTS.items()}  # fmt: skip  # noqa: E501
    new = {"class_embed", "anchor_query", "level_proj"}
    assert lacking["MDETR"] == new | {"sted_embed", "fusion"}
    assert lacking["TubeDETR"] == set()  # it has a head of its own
    assert lacking["FSM"] == {"fusion"}
    missing = translate(fill(fsm()), "x")[1].missing
    gates = {m.split(".", 2)[2].rpartition(".")[0] for m in missing if "branch" in m}
    assert gates == {"gates.score", "gates.value"}, "eq 3 is drawn at random in every published forward pass"


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("backbone.0.body.layer3.7.conv2.weight", "backbone is incomplete"),
        ("transformer.text_encoder.encoder.layer.11.output.dense.bias", "text is incomplete"),
        ("transformer.encoder.layers.0.norm2.bias", "head is incomplete"),
        ("transformer.decoder.layers.1.cross_attn_image.in_proj_bias", "head is incomplete"),
        ("transformer.resizer.layer_norm.weight", "head is incomplete"),
        ("bbox_embed.layers.1.weight", "head is incomplete"),
        ("sted_embed.layers.0.bias", "head is incomplete"),
        ("transformer.fast_residual.bias", "head is incomplete"),
        ("query_embed.weight", "head is incomplete"),
    ],
)
def test_a_part_that_lacks_one_tensor_is_refused_by_name_and_nothing_is_written(tmp_path, lost, said):
    tensors = fill(encoders() | tubedetr())
    del tensors[lost]
    torch.save({"model": tensors}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=said) as refused:
        import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert re.search(
        re.sub(r"^backbone\.0\.body\.|^transformer\.(text_encoder\.)?|(?<=query_embed).*", "", lost), str(refused.value)
    )
    assert not (tmp_path / "out").exists()


def test_a_tensor_of_another_size_is_refused():
    tensors = fill(tubedetr()) | {"transformer.decoder.norm.weight": torch.ones(D + 1)}
    with pytest.raises(CheckpointError, match=r"decoder.norm.weight \(65,\) instead of \(64,\)"):
        translate(tensors, "file")


def test_unknown_tensors_are_reported_and_unknown_files_refused():
    _, report = translate(fill(mdetr() | {"something.else": (3,)}), "file")
    assert report.unexpected == ["something.else"]
    with pytest.raises(CheckpointError, match="none of the checkpoints that can be imported"):
        translate({"encoder.weight": torch.ones(2)}, "file")


@pytest.mark.parametrize("ema", ["theirs", None, "absent"])
def test_averaged_weights_are_taken_where_there_are_any(tmp_path, ema):
    plain, averaged = fill(tubedetr()), {k: v + 1 for k, v in fill(tubedetr()).items()}
    saved = {"model": plain, "epoch": 3, "args": argparse.Namespace(lr=5e-5, resolution=224)}
    if ema != "absent":
        saved["model_ema"] = averaged if ema else None
    torch.save(saved, tmp_path / "x.pth")
    import_weights(tmp_path / "x.pth", tmp_path / "out")
    found = load_file(tmp_path / "out/head.safetensors")["decoder.norm.weight"]
    expected = (averaged if ema == "theirs" else plain)["transformer.decoder.norm.weight"]
    assert torch.equal(found, expected)
    facts = json.loads((tmp_path / "out/report.json").read_text())
    assert facts["entry"] == ("model_ema" if ema == "theirs" else "model")
    assert facts["kind"] == "TubeDETR"
    assert not (tmp_path / "out/backbone.safetensors").exists()


class Runs:
    """A pickle of this creates a file when it is loaded as pickles usually are."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("hidden", ["tensors", "args"])
def test_a_pickle_that_would_run_something_is_refused_without_running_it(tmp_path, hidden):
    trap = Runs(tmp_path / "ran")
    saved = {"model": {**fill(tubedetr()), **({"x": trap} if hidden == "tensors" else {})}}
    saved["args"] = argparse.Namespace(resume=trap if hidden == "args" else "")
    torch.save(saved, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        import_weights(tmp_path / "evil.pth", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    with (tmp_path / "plain.pth").open("wb") as file:
        pickle.dump(saved, file, protocol=2)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        import_weights(tmp_path / "plain.pth", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_an_import_is_not_overwritten(tmp_path):
    torch.save({"model": fill(tubedetr())}, tmp_path / "x.pth")
    import_weights(tmp_path / "x.pth", tmp_path / "out")
    before = (tmp_path / "out/head.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds an import already"):
        import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert (tmp_path / "out/head.safetensors").read_bytes() == before


@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_plain_files_of_encoders_are_imported_too(tmp_path, prefix):
    torch.save(
        fill(encoder_shapes("backbone") | linear("fc", 2048, 1000) | {"bn1.num_batches_tracked": (1,)}),
        tmp_path / "r.pth",
    )
    report = import_weights(tmp_path / "r.pth", tmp_path / "resnet")
    assert report.kind == "ResNet-101"
    assert report.sizes == {"backbone": 42_394_816 + 4 * 52_672}, (
        "the norms' four statistics are stored, and no parameters"
    )
    assert build_backbone("resnet101", tmp_path / "resnet/backbone.safetensors").sha256
    shapes = {f"{prefix}{k}": v for k, v in encoder_shapes("text").items() if not k.startswith("pooler.")}
    parts, report = translate(fill({**shapes, **linear("lm_head.dense", 768, 768)}), "file")
    assert report.kind == "RoBERTa"
    assert report.sizes == {"text": 124_645_632}
    assert not parts["text"]["pooler.dense.weight"].any()


# --- starting a head -----------------------------------------------------------------------------------------------------

FACTS = FeatureFacts(RESNET, 768)
SIZE = (
    f"model.d={D}",
    "model.heads=4",
    f"model.ffn={FFN}",
    f"model.encoder_layers={LAYERS}",
    f"model.decoder_layers={LAYERS}",
)


def imported(tmp_path: Path, layout: Shapes) -> Path:
    torch.save({"model": fill(layout)}, tmp_path / "x.pth")
    import_weights(tmp_path / "x.pth", tmp_path / "out")
    return tmp_path / "out/head.safetensors"


def build(preset: str, *settings: str):
    return build_model(load_experiment(preset, [*SIZE, *settings]).model, FACTS)


def test_a_head_starts_from_the_first_queries_and_every_shared_layer_of_mdetr(tmp_path):
    weights, model = imported(tmp_path, mdetr()), build("paper")
    start, found = start_from(model, weights), load_file(weights)
    assert {k.split(".")[0] for k in start.fresh} == {
        "sted_embed",
        "class_embed",
        "anchor_query",
        "level_proj",
        "fusion",
    }
    assert start.unused == []
    assert torch.equal(model.query_embed.weight, found["query_embed.weight"][:5])
    for name, value in found.items():
        if name != "query_embed.weight":
            assert torch.equal(model.state_dict()[name], value), name


def test_one_query_becomes_several_unequal_ones_and_says_so(tmp_path):
    model = build("paper")
    start = start_from(model, imported(tmp_path, tubedetr()))
    assert "5 queries are made of 1 imported" in str(start)
    assert start.unused == [f"fast_{k}.{w}" for k in ("encoder", "residual") for w in ("bias", "weight")]
    rows = fit_queries(torch.randn(1, D, generator=torch.Generator().manual_seed(1)), 5)
    assert len({tuple(r.tolist()) for r in rows}) == 5
    assert (rows - rows[:1]).abs().max() < 0.2 * rows[0].std()


def test_unshared_layers_of_the_second_stream_start_as_copies_of_the_first(tmp_path):
    model = build("paper", "model.shared_decoder=false")
    start_from(model, imported(tmp_path, mdetr()))
    for ours, theirs in zip(model.anchor_layers.parameters(), model.decoder.layers.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_of_another_size_are_refused_and_leave_the_head_alone(tmp_path):
    weights = imported(tmp_path, mdetr())
    model = build("paper", "model.decoder_layers=3")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"missing +decoder.layers.2"):
        start_from(model, weights)
    with pytest.raises(CheckpointError, match=r"linear1.weight is \(96, 64\) here, \(48, 64\) in the head"):
        start_from(build("paper", "model.ffn=48"), weights)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_imported_weights_extract_train_and_score(stvg, synthetic, tmp_path, shared):
    """The whole road of the paper's start: a checkpoint's encoders fill the cache, its head starts the training."""
    tensors = fill(tubedetr())
    backbone = build_backbone("resnet101", "random")
    tensors |= {f"backbone.0.body.{k}": v for k, v in backbone.encoder.body.state_dict().items()}
    torch.save({"model": tensors, "args": argparse.Namespace(stride=2)}, tmp_path / "tubedetr.pth")
    done = stvg("weights", "import", tmp_path / "tubedetr.pth", "--out", tmp_path / "weights")
    assert done.code == 0, done.err
    assert "a checkpoint of TubeDETR" in done.out
    encoders = ("--backbone-weights", tmp_path / "weights/backbone.safetensors", "--text-weights", "random")
    encoders += ("--tokenizer", shared / "real/roberta-base-tokenizer")
    options = ("--dataset", "vidstg", "--annotations", synthetic, "--split", "test", "--resolution", 64, "--fps", 1)
    done = stvg("extract", *options, "--out", tmp_path / "cache", "--levels", "last", *encoders)
    assert done.code == 0, done.err
    assert Cache.open(tmp_path / "cache").recipe.visual.sha256 == backbone.sha256
    size = [word for setting in (*SIZE, "train.epochs=0", "model.max_frames=20") for word in ("--set", setting)]
    train = ("train-head", "--cache", tmp_path / "cache", "--preset", "tubedetr", "--split", "test", *size)
    done = stvg(*train, "--init", tmp_path / "weights/head.safetensors", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "0 tensors drawn afresh; 0 of the file's unused" in done.out
    saved, weights = (
        load_checkpoint(tmp_path / "run/last.safetensors"),
        load_file(tmp_path / "weights/head.safetensors"),
    )
    ema = saved.group("ema")
    assert all(torch.equal(ema[f"head.{k}"], v) for k, v in weights.items())
    done = stvg("evaluate", "--checkpoint", tmp_path / "run/last.safetensors", "--cache", tmp_path / "cache")
    assert done.code == 0, done.err
    other = stvg(*train, "--out", tmp_path / "run")
    assert other.code == 1
    assert "another started_from" in other.err


def test_head_files_say_what_they_are(tmp_path):
    from safetensors import safe_open

    with safe_open(imported(tmp_path, mdetr()), framework="pt") as file:
        assert file.metadata() == {"format": HEAD_FORMAT, "source": "MDETR"}
