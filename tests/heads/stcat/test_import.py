"""A checkpoint under STCAT's published names imports whole, and what came of STCAT is told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stvg.errors import CheckpointError
from stvg.heads.import_weights import HEAD_FORMAT, import_weights, translate
from stvg.heads.model_config import FeatureFacts
from stvg.heads.stcat.config import STCATConfig
from stvg.heads.stcat.model import STCAT
from stvg.heads.stcat.names import adopted

from ...encoders import RESNET
from .recorded import described, tensors


def published(folder: Path) -> dict[str, Tensor]:
    """All 559 names of a head of the published size; every tensor is one number, and small on the disk."""
    shapes = described(folder)["full_size_state_dict"]
    found = {k: torch.tensor(float(i)).expand(*shape) for i, (k, shape) in enumerate(shapes.items())}
    second = "ground_decoder.decoder."
    return {k: found.get(k.removeprefix(second), v) if k.startswith(f"{second}bbox") else v for k, v in found.items()}


def test_a_checkpoint_with_the_published_names_imports_whole(shared: Path, tmp_path: Path, stvg) -> None:
    whole = published(shared / "golden")
    assert len(whole) == 559
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": whole, "iteration": 7}, tmp_path / "stcat.pth")
    done = stvg("weights", "import", tmp_path / "stcat.pth", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "checkpoint of STCAT" in done.out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["kind"] == "STCAT"
    assert report["missing"] == report["unexpected"] == []
    assert len(report["matched"]) == 559 - len(report["dropped"])
    dropped = ("time_embed.te", "fusion.", "ca_qtime_proj.", "decoder.bbox_embed.")
    assert all(any(part in name for part in dropped) for name in report["dropped"])
    head = load_file(tmp_path / "out/head.safetensors")
    with torch.device("meta"):
        model = STCAT(STCATConfig(), FeatureFacts(RESNET[-1:], 768))
    assert {k: v.shape for k, v in head.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert report["sizes"] == {"head": 39_860_235}
    for theirs, ours in report["matched"].items():
        assert float(head[ours.removeprefix("head: ")].flatten()[0]) == float(whole[theirs].flatten()[0]), theirs


def test_wrapped_and_prefixed_names_are_the_same_head(shared: Path) -> None:
    plain = tensors(shared / "golden", "stcat_small.safetensors")
    expected = translate(plain, "here")[0]["head"]
    found, report = translate({f"net.{k}": v for k, v in plain.items()}, "here")
    assert report.kind == "STCAT"
    assert found["head"].keys() == expected.keys()


@pytest.mark.parametrize(
    "lost", ["ground_encoder.encoder.video_cls.weight", "action_embed.layers.1.bias", "temp_embed."]
)
def test_a_head_that_is_not_whole_is_refused(shared: Path, lost: str) -> None:
    found = {k: v for k, v in tensors(shared / "golden", "stcat_small.safetensors").items() if not k.startswith(lost)}
    with pytest.raises(CheckpointError, match="head is incomplete"):
        translate(found, "here")


def test_a_second_box_head_that_differs_is_refused(shared: Path) -> None:
    found = dict(tensors(shared / "golden", "stcat_small.safetensors"))
    found["ground_decoder.decoder.bbox_embed.layers.2.bias"] = torch.ones(4, dtype=torch.float16)
    with pytest.raises(CheckpointError, match="second name"):
        translate(found, "here")


def test_a_head_with_layers_that_STCAT_has_not_is_another(shared: Path) -> None:
    found = dict(tensors(shared / "golden", "stcat_small.safetensors"))
    found["ground_decoder.context.weight"] = torch.ones(4)
    with pytest.raises(CheckpointError, match="CG-STVG"):
        translate(found, "here")


def test_nothing_of_a_published_head_is_imported_twice(shared: Path, tmp_path: Path) -> None:
    torch.save(published(shared / "golden"), tmp_path / "stcat.pth")
    report = import_weights(tmp_path / "stcat.pth", tmp_path / "out")
    assert len(set(report.matched.values())) == len(report.matched)
    from safetensors import safe_open

    with safe_open(tmp_path / "out/head.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": HEAD_FORMAT, "source": "STCAT"}


def test_an_MDETR_head_fills_the_parts_that_the_published_code_starts_from_it() -> None:
    from ..test_import_weights import fill, mdetr

    mine = adopted(translate(fill(mdetr()), "here")[0]["head"])
    config = STCATConfig(d=64, ffn=96, encoder_layers=2, decoder_layers=2)
    model = STCAT(config, FeatureFacts(RESNET[-1:], 768))
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    mine = {k: v for k, v in mine.items() if k in wanted}
    assert {k: tuple(v.shape) for k, v in mine.items()} == {k: wanted[k] for k in mine}
    groups = {k.partition(".")[0] for k in mine}
    assert groups == {"input_proj", "resizer", "bbox_embed", "encoder", "spatial_decoder"}
    fresh = {k for k in wanted if k not in mine and k.startswith("spatial_decoder.layers.0.")}
    assert {k.split(".")[3].split("_")[0] for k in fresh} == {"sa", "ca", "cross"}
