"""Encoders by name: built in, of timm, transformers, torchvision, and users' own classes. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stvg.errors import CheckpointError, EncoderError, UsageError
from stvg.extract.encoders.backbone import Backbone, build_backbone
from stvg.extract.encoders.contract import Origin
from stvg.extract.encoders.text import build_text_encoder

from .folders import hf_folder, text_folder

MINE = """
import torch
from torch import nn
{more}

class Mine(nn.Module):
    levels = [("fine", 4, 4), ("coarse", 6, 8)]
    mean = std = (0.5, 0.5, 0.5)
    multiple = 8

    def __init__(self, weights, device):
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 4, 4)
        self.coarse = nn.Conv2d(4, 6, 2, 2)
        if weights != "random":
            self.load_state_dict(torch.load(weights, weights_only=True))
        self.to(device)

    def forward(self, pixels):
        fine = self.fine(pixels)
        return {{"fine": fine, "coarse": self.coarse(fine)}}


class Words:
    width = 5

    def __init__(self, weights, device):
        self.table = nn.Embedding(256, 5, device=device)

    def __call__(self, sentences):
        return [self.table(torch.tensor(list(s.encode()) or [0])) for s in sentences]
"""


def write(folder: Path, more: str = "") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(MINE.format(more=more))
    return f"{folder / 'mine.py'}:Mine"


@torch.inference_mode()
def maps(backbone: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return backbone(pixels)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


FAMILIES = {
    "timm:resnet18": ((128, 8), (256, 16), (512, 32)),
    "timm:convnext_atto": ((80, 8), (160, 16), (320, 32)),
    "timm:tf_efficientnet_lite0": ((40, 8), (112, 16), (320, 32)),
    "timm:swin_tiny_patch4_window7_224": ((192, 8), (384, 16), (768, 32)),
    "timm:vit_tiny_patch16_224": ((192, 16),),
    "timm:vit_small_patch14_reg4_dinov2": ((384, 14),),
    "hf dinov2": ((16, 14),),
    "hf swin": ((16, 8), (32, 16), (64, 32)),
    "hf convnext": ((8, 8), (12, 16), (16, 32)),
    "hf resnet": ((8, 8), (12, 16), (16, 32)),
    "torchvision:swin3d_t": ((192, 8), (384, 16), (768, 32)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_maps_of_any_size_that_suit_float16(family, tmp_path):
    name, weights = (hf_folder(tmp_path / "m", family[3:]), None) if family[:3] == "hf " else (family, "random")
    backbone = build_backbone(name, weights).for_extraction(torch.device("cpu"))
    assert tuple((level.channels, level.stride) for level in backbone.levels) == FAMILIES[family]
    for height, width in ((67, 101), (64, 33)):
        frames = (2, 3) if backbone.window == 1 else (2, backbone.window, 3)
        for level, found in zip(backbone.levels, maps(backbone, noise(*frames, height, width)).values(), strict=True):
            assert found.shape == (2, level.channels, -(-height // level.stride), -(-width // level.stride))
            assert 1e-3 < found.std() < 100


def test_timms_resnet101_equals_the_built_in_one():
    own = build_backbone("resnet101", "random", seed=5)
    save = own.encoder.body.state_dict()
    theirs = build_backbone("timm:resnet101", "random")
    state = theirs.encoder.network.state_dict()
    assert {k for k in state if "num_batches" not in k} == set(save)
    theirs.encoder.network.load_state_dict(save, strict=False)
    pixels = noise(1, 3, 75, 110)
    for (_, expected), (_, found) in zip(maps(own, pixels).items(), maps(theirs, pixels).items(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_timms_weights_are_read_whole_and_what_does_not_fit_is_named(tmp_path):
    network = build_backbone("timm:resnet18", "random", seed=2)
    state = {k: v.contiguous() for k, v in network.encoder.network.state_dict().items()}
    save_file({**state, "fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, tmp_path / "model.safetensors")
    said = {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    found = build_backbone("timm:resnet18", tmp_path)
    assert found.sha256 == network.sha256
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.sha256 != build_backbone("timm:resnet18", "random", seed=3).sha256
    save_file(
        {**{k: v for k, v in state.items() if k != "layer2.0.conv1.weight"}, "x": torch.ones(1)}, tmp_path / "m.pth"
    )
    with pytest.raises(CheckpointError, match="does not fit") as refused:
        build_backbone("timm:resnet18", tmp_path / "m.pth")
    assert refused.value.facts["missing"] == "layer2.0.conv1.weight"
    assert refused.value.facts["unexpected"] == "x"
    with pytest.raises(CheckpointError, match="no weights for timm:resnet18"):
        build_backbone("timm:resnet18")


def test_what_transformers_saved_is_loaded_and_a_lost_tensor_is_named(tmp_path):
    from safetensors.torch import load_file

    name = hf_folder(tmp_path / "m", "dinov2")
    (tmp_path / "m/preprocessor_config.json").write_text('{"image_mean": [0.1, 0.1, 0.1], "image_std": [1, 1, 1]}')
    backbone = build_backbone(name)
    assert backbone.mean == (0.1, 0.1, 0.1)
    assert (backbone.name, backbone.source) == ("hf:m", str(tmp_path / "m"))
    assert build_backbone(name, "random").sha256 != backbone.sha256
    state = load_file(tmp_path / "m/model.safetensors")
    lost = next(k for k in state if k.endswith("query.weight"))
    del state[lost]
    save_file(state, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="incomplete") as refused:
        build_backbone(name)
    assert "layer.0" in refused.value.facts["missing"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet11", "did you mean 'resnet101'"),
        ("timm:resnet11", "did you mean"),
        ("timm:", "lacks a name after the colon"),
        ("hf:nowhere", "nothing is downloaded"),
        ("torchvision:swin3d", "did you mean"),
        ("nowhere.py:Class", "no file nowhere.py"),
        ("nowhere:Class", "no package 'nowhere'"),
        ("json:Class", "has no class 'Class'"),
    ],
)
def test_a_name_of_nothing_is_refused_with_what_there_is(name, said):
    with pytest.raises(UsageError) as refused:
        build_backbone(name, "random")
    assert said in str(refused.value)


def test_a_users_class_is_padded_cropped_frozen_and_follows_the_seed(tmp_path):
    name = write(tmp_path)
    backbone = build_backbone(name, "random")
    assert backbone.name == "mine.py:Mine"
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    found = maps(backbone, noise(2, 3, 17, 30))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"fine": (2, 4, 5, 8), "coarse": (2, 6, 3, 4)}
    assert build_backbone(name, "random").sha256 == backbone.sha256
    assert build_backbone(name, "random", seed=1).sha256 != backbone.sha256
    torch.save(backbone.encoder.state_dict(), tmp_path / "w.pt")
    assert build_backbone(name, tmp_path / "w.pt").sha256 == backbone.sha256
    words = build_text_encoder(name.replace("Mine", "Words"), "random")
    assert [f.shape for f in words.encode(["abc", "", "a"])] == [(3, 5), (1, 5), (1, 5)]


def test_the_hash_of_a_users_class_covers_its_source_and_the_files_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("X = 1")
    name = write(tmp_path, "def later():\n    import beside_it")
    first = build_backbone(name, "random").sha256
    (tmp_path / "unrelated.py").write_text("")
    assert build_backbone(name, "random").sha256 == first
    (tmp_path / "beside_it.py").write_text("X = 2")
    second = build_backbone(name, "random").sha256
    write(tmp_path, "# changed\ndef later():\n    import beside_it")
    assert len({first, second, build_backbone(name, "random").sha256}) == 3
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "beside_it.py").write_text("X = 1")
    assert build_backbone(write(moved, "def later():\n    import beside_it"), "random").sha256 == first


def test_an_installed_class_and_an_entry_point_are_found(tmp_path, monkeypatch):
    write(tmp_path / "mypackage")
    (tmp_path / "mypackage/__init__.py").write_text("from .mine import Mine")
    info = tmp_path / "mypackage-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mypackage\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[stvg.encoders]\nmine = mypackage.mine:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    by_point, by_name = build_backbone("mine", "random"), build_backbone("mypackage.mine:Mine", "random")
    assert (by_point.name, by_name.name) == ("mine", "mypackage.mine:Mine")
    assert by_point.sha256 == by_name.sha256
    with pytest.raises(UsageError) as refused:
        build_backbone("mane", "random")
    assert refused.value.facts["hint"] == "did you mean 'mine'?"


def test_a_class_that_breaks_while_it_is_made_is_named(tmp_path):
    with pytest.raises(EncoderError, match="could not be made") as refused:
        build_backbone(write(tmp_path), tmp_path / "no.pt")
    assert "FileNotFoundError" in refused.value.facts["found"]
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    with pytest.raises(UsageError, match="cannot be imported"):
        build_backbone(f"{tmp_path / 'broken.py'}:Mine")


class Given:
    levels = (("a", 2, 4),)
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, **facts):
        vars(self).update(facts)


@pytest.mark.parametrize(
    "facts",
    [
        {"levels": []},
        {"levels": [("a", 2)]},
        {"levels": [("a", 2, 8), ("b", 2, 4)]},
        {"levels": [("a", 2, 4), ("a", 2, 8)]},
        {"levels": [("a_roi", 2, 4)]},
        {"mean": (127, 127, 127)},
        {"std": (0, 1, 1)},
        {"std": (1, 1, float("nan"))},
        {"mean": (float("nan"), 0, 0)},
        {"levels": [("a", 2, 8.5)]},
        {"window": "8"},
        {"mean": (0.5,)},
        {"multiple": 0},
    ],
    ids=str,
)
def test_facts_that_cannot_be_are_refused(facts):
    with pytest.raises(EncoderError, match="encoder mine"):
        Backbone(Given(**facts), Origin("mine", "nowhere"))


@pytest.mark.parametrize(("kind", "longest"), [("bert", 12), ("roberta", 12), ("t5", 16), ("clip", 10)])
def test_text_models_of_transformers_encode_sentences_whatever_stands_beside_them(kind, longest, tmp_path):
    text = build_text_encoder(text_folder(tmp_path / "t", kind))
    assert (text.name, text.width, text.longest) == ("hf:t", 8, longest)
    sentences = ["abc", "a", "abcdefgh" * 9]
    together = text.encode(sentences)
    assert [len(f) for f in together] == [5, 3, longest]
    for sentence, found in zip(sentences, together, strict=True):
        np.testing.assert_allclose(found, text.encode([sentence])[0], atol=1e-5)
        assert found.std() > 1e-3


def test_the_hash_of_a_text_model_covers_weights_tokenizer_and_length(tmp_path):
    name = text_folder(tmp_path / "t", "bert")
    own = build_text_encoder(name)
    assert own.sha256 == build_text_encoder(name).sha256
    assert own.sha256 != build_text_encoder(name, "random").sha256
    file = tmp_path / "t/tokenizer.json"
    file.write_text(file.read_text().replace('"a": 4', '"x": 4'))
    assert build_text_encoder(name).sha256 != own.sha256
