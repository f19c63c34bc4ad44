"""Weights of encoders: the field's by name, the same files for extraction and for import, and what was taken is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stvg.errors import CheckpointError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.resnet import ResNet101
from stvg.extract.encoders.roberta import ANCHOR, plain_names
from stvg.heads.import_weights import encoder_shapes, import_weights, translate
from stvg.weights import read_weights

Named = dict[str, Tensor]


def fill(part: str) -> Named:
    """Whole shapes in a small file: every tensor is one number, stored once."""
    return {k: torch.full((1,), 1 + i / 4096).expand(s) for i, (k, s) in enumerate(encoder_shapes(part).items())}


@pytest.fixture(scope="module")
def resnet() -> Named:
    return fill("backbone")


def hub(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(folder))
    (folder / "hub/checkpoints").mkdir(parents=True)
    for number, name in enumerate(names):
        content = {k: v + number for k, v in fill("backbone").items()}
        torch.save(content, folder / "hub/checkpoints" / name)
    return folder / "hub/checkpoints"


V1, V2 = "resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"


def test_of_two_published_files_the_fields_is_taken_by_name(tmp_path, monkeypatch, caplog):
    folder = hub(tmp_path, monkeypatch, V1, V2)
    with caplog.at_level(logging.INFO):
        found = build_backbone("resnet101")
    assert found.sha256 == build_backbone("resnet101", folder / V1).sha256
    assert str(folder / V1) in found.source
    assert str(folder / V1) in caplog.text


@pytest.mark.parametrize("name", [V2, "resnet101-mine.pth", "resnet101-zzz.pth"])
def test_another_file_alone_is_named_and_not_taken(name, tmp_path, monkeypatch):
    hub(tmp_path, monkeypatch, name)
    with pytest.raises(CheckpointError, match="no weights for resnet101") as refused:
        build_backbone("resnet101")
    assert name in refused.value.facts["found"]
    assert V1 in refused.value.facts["expected"]


def wrapped(resnet: Named, form: str) -> object:
    counted = {
        **resnet,
        "bn1.num_batches_tracked": torch.tensor(5),
        "layer4.2.bn3.num_batches_tracked": torch.tensor(5),
    }
    whole = {**counted, "fc.weight": torch.ones(1000, 1), "fc.bias": torch.ones(1000)}
    decoder = {"transformer.decoder.norm.weight": torch.ones(256), "class_embed.weight": torch.ones(92, 256)}
    under = {
        "ddp": ("module.", whole, {}),
        "compiled": ("_orig_mod.", whole, {}),
        "detr": ("backbone.0.body.", resnet, decoder),
        "detr with counters": ("backbone.0.body.", counted, decoder),
        "ddp of detr": ("module.backbone.0.body.", counted, {f"module.{k}": v for k, v in decoder.items()}),
        "stcat": ("vis_encoder.0.body.", resnet, {"ground_decoder.x": torch.ones(1), "temp_embed.y": torch.ones(1)}),
        "lightning": ("model.backbone.body.", whole, {"criterion.weight": torch.ones(2)}),
        "ours": (
            "ema.encoders.backbone.body.",
            resnet,
            {f"model.encoders.backbone.body.{k}": v for k, v in resnet.items()},
        ),
        "plain": ("", whole, {}),
    }
    prefix, tensors, more = under[form]
    return {"model": {prefix + k: v for k, v in tensors.items()} | more}


FORMS = ("plain", "ddp", "compiled", "detr", "detr with counters", "ddp of detr", "stcat", "lightning", "ours")


@pytest.mark.parametrize("form", FORMS)
def test_extraction_and_import_take_the_same_backbone_from_every_form(form, resnet, tmp_path):
    torch.save(wrapped(resnet, form), tmp_path / "x.pth")
    backbone = ResNet101()
    backbone.load(tmp_path / "x.pth")
    assert all(torch.equal(v, resnet[k]) for k, v in backbone.body.state_dict().items())
    parts, report = translate(read_weights(tmp_path / "x.pth").tensors, "x.pth")
    assert set(parts) == {"backbone"}
    assert all(torch.equal(v, resnet[k]) for k, v in parts["backbone"].items())
    if form not in ("lightning", "ours"):
        assert report.unexpected == []


def test_counters_are_told_from_weights_in_the_report(resnet, tmp_path):
    torch.save(wrapped(resnet, "detr with counters"), tmp_path / "x.pth")
    report = import_weights(tmp_path / "x.pth", tmp_path / "out")
    assert report.kind == "DETR"
    assert report.dropped["backbone.0.body.bn1.num_batches_tracked"] == "a counter"
    assert "only the backbone" in report.dropped["class_embed.weight"]
    assert "entry model" in report.lines(tmp_path / "x.pth", tmp_path)[0]
    assert build_backbone("resnet101", tmp_path / "out").source == str(tmp_path / "out/backbone.safetensors")


@pytest.mark.parametrize("prefix", ["", "roberta.", "module.transformer.text_encoder.", "text_encoder.body."])
def test_a_roberta_is_taken_from_inside_every_model(prefix, tmp_path):
    text = fill("text")
    content = {prefix + k: v for k, v in text.items()} | {f"{prefix}embeddings.position_ids": torch.arange(514)[None]}
    content |= {"lm_head.bias": torch.ones(3)} if prefix in ("", "roberta.") else {}
    torch.save(content, tmp_path / "x.pth")
    weights = read_weights(tmp_path / "x.pth")
    found = plain_names(weights.beside(ANCHOR).tensors)
    parts, _ = translate(weights.tensors, "x.pth")
    for taken in (found, parts["text"]):
        assert taken.keys() == text.keys()
        assert all(torch.equal(taken[k], text[k]) for k in text)


def test_weights_that_are_no_numbers_are_neither_loaded_nor_imported(resnet, tmp_path):
    bad = resnet["conv1.weight"].clone()
    bad[0, 0, 0, 0] = float("nan")
    torch.save({**resnet, "conv1.weight": bad}, tmp_path / "nan.pth")
    for read in (ResNet101().load, lambda path: import_weights(path, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=r"conv1.weight holds numbers that are not finite"):
            read(tmp_path / "nan.pth")
    assert not (tmp_path / "out").exists()
