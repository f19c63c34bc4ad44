"""Several visual encoders in one cache: each gives what it gives alone, and a head reads the one it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stvg.cache.index import Cache
from stvg.cache.schema import Level, Recipe
from stvg.cache.video_unit import video_key
from stvg.errors import UsageError
from stvg.evaluate.evaluation import load_head
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.contract import Backbone, Origin
from stvg.extract.encoders.several import Several
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.options import TrainRequest
from stvg.heads.training.state import Run

from ..encoders import text, visual
from ..test_encoder_contract import CPU, data, extracted, named  # noqa: F401

SMALL = ["train.epochs=1", "train.batch_size=1", "model.ffn=16", "model.max_frames=8"]


def alone(cache: Cache, level: str) -> torch.Tensor:
    return torch.from_numpy(cache.store.read(video_key("v"), level))


@pytest.fixture
def several(data: Path, tmp_path: Path) -> Cache:  # noqa: F811
    """Three encoders: with other colours, another multiple, a window."""
    names = [named(f"mine.py:{name}", tmp_path) for name in ("Mine", "Windowed")]
    return extracted(data, tmp_path / "several", ",".join(("tiny", *names)), "tiny", dtype="float32", levels="full")


def test_features_are_those_of_each_encoder_alone_to_the_bit(several, data, tmp_path):  # noqa: F811
    for name in ("tiny", "Mine", "Windowed"):
        backbone = name if name == "tiny" else named(f"mine.py:{name}", tmp_path)
        own = extracted(data, tmp_path / name, backbone, "tiny", dtype="float32", levels="full")
        for level in own.recipe.visual.levels:
            assert torch.equal(alone(several, f"{name}-{level.name}"), alone(own, level.name)), level


def test_of_every_encoder_the_last_level_is_kept_as_maps():
    levels = (Level("a-x", 2, 8), Level("a-y", 2, 16), Level("b-z", 2, 14), Level("c-u", 2, 4), Level("c-v", 2, 32))
    kept = Recipe(visual(levels), text(), keep="roi").kept
    assert kept == {"a-x": "regions", "a-y": "maps", "b-z": "maps", "c-u": "regions", "c-v": "maps"}
    assert [k.name for k in Recipe(visual(levels), text(), keep="last").levels] == ["a-y", "b-z", "c-v"]


def test_a_head_reads_the_encoder_whose_level_it_remembers(several, tmp_path):
    read = {}
    for memory in (None, "Mine-coarse", "tiny-c5"):
        settings = SMALL if memory is None else [*SMALL, f"model.memory_level={memory}"]
        run = Run(tmp_path / str(memory), several, load_experiment("tiny", settings), "train", CPU)
        read[memory] = [level.name for level in run.model.head.region_levels]
        train(run)
    assert read == {None: [], "Mine-coarse": ["Mine-fine"], "tiny-c5": ["tiny-c3", "tiny-c4"]}
    both = [*SMALL, "model.memory_level=Mine-coarse", "model.region_levels=[tiny-c4]"]
    train(Run(tmp_path / "both", several, load_experiment("tiny", both), "train", CPU))


def test_end_to_end_runs_the_encoders_that_are_read_and_equals_the_cache_while_frozen(several, data, tmp_path):  # noqa: F811
    sources = {"backbone": ",".join(["tiny", *(named(f"mine.py:{n}", tmp_path) for n in ("Mine", "Windowed"))])}
    frozen = [*SMALL, "train.lr_backbone=0", "train.lr_text=0", "train.views=false", "model.memory_level=Mine-coarse"]
    losses = {}
    for mode in ("cached", "end-to-end"):
        experiment = load_experiment("tiny", [*frozen, f"train.mode={mode}"])
        run = Run(tmp_path / mode, several, experiment, "train", CPU, sources | {"videos": data / "videos"})
        train(run)
        losses[mode] = (tmp_path / mode / "metrics.jsonl").read_text().partition('"loss": ')[2].partition(",")[0]
    assert [part.name for part in run.encoders.backbone.each] == ["mine.py:Mine"]
    again = load_head(tmp_path / "end-to-end/last.safetensors", CPU, {"backbone": sources["backbone"]})
    assert [part.name for part in again.model.encoders.backbone.each] == ["mine.py:Mine"]
    assert float(losses["end-to-end"]) == pytest.approx(float(losses["cached"]), rel=1e-4)


def test_the_last_stage_of_several_encoders_is_refused_and_no_weights_are_asked_for(several, tmp_path):
    with pytest.raises(UsageError, match=r"last stage of several encoders.*tiny,"):
        TrainRequest("tiny", mode="last-stage", backbone_weights="nosuch.pth").request(several, "cpu")
    names = several.recipe.visual.name.replace("mine.py", f"{tmp_path}/mine.py")
    with pytest.raises(UsageError, match="no last stage that could train alone"):
        Run(
            tmp_path / "run",
            several,
            load_experiment("tiny", ["train.mode=last-stage"]),
            "train",
            CPU,
            {"backbone": names},
        )


def fake(name: str, scale: float = 1.0, std: float = 0.5) -> Backbone:
    class Fake(nn.Module):
        levels = (("x", 3, 2),)
        mean = (0.5,) * 3

        def __init__(self):
            super().__init__()
            self.std = (std,) * 3
            self.scale = nn.Parameter(torch.tensor([float(scale)]))

        def forward(self, pixels):
            return {"x": self.scale * nn.functional.avg_pool2d(pixels, 2, ceil_mode=True)}

    return Backbone(Fake(), Origin(name, "here"))


def test_the_hash_follows_the_weights_the_normalisation_and_the_order_of_each():
    def hashed(*parts: Backbone) -> str:
        return Several(parts, ["a", "b"]).sha256

    found = [hashed(fake("p"), fake("q", 2)), hashed(fake("q", 2), fake("p")), hashed(fake("p"), fake("q", 3))]
    found.append(hashed(fake("p"), fake("q", 2, std=0.25)))
    assert len({*found}) == 4
    assert found[0] == hashed(fake("elsewhere"), fake("q", 2))


def test_levels_are_called_after_their_encoder_and_numbered_where_it_comes_twice():
    found = build_backbone("tiny, timm:test_resnet ,timm:test_resnet", "random")
    assert [*dict.fromkeys(level.encoder for level in found.levels)] == ["tiny", "testresnet", "testresnetx2"]
    assert found.name == "tiny,timm:test_resnet,timm:test_resnet"


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("tiny,timm:test_resnet", "a,b,c", "2 encoders and 3 weights"),
        ("tiny,timm:test_resnet", "only-one.pth", "2 encoders and 1 weights"),
        ("tiny,", None, "a name is missing"),
        ("tiny,nonsuch", None, "there is no backbone 'nonsuch'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(name, weights, said):
    with pytest.raises(UsageError, match=said):
        build_backbone(name, weights)


def test_each_takes_its_own_weights_and_an_empty_place_is_where_its_kind_keeps_them(tmp_path):
    torch.save(build_backbone("timm:test_resnet", "random", 5).encoder.state_dict(), tmp_path / "w.pth")
    found = build_backbone("tiny,timm:test_resnet", ",random")
    assert "random" in found.source
    assert found.each[0].sha256 == build_backbone("tiny").sha256
