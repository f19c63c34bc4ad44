"""Starting a head: from our own checkpoints as from imported weights, and never from what does not fit or is no number."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stvg.errors import CheckpointError
from stvg.heads.checkpoint import save_checkpoint
from stvg.heads.import_weights import import_weights
from stvg.heads.initial import Found, fitting, start_from
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model

from ..encoders import levels

FACTS = FeatureFacts(levels((34, 50, 92), (4, 8, 16)), 64)


def head(*settings: str, seed: int = 0):
    experiment = load_experiment("tiny", settings)
    return build_model(experiment.model, FACTS, seed), asdict(experiment)


def checkpoint(folder: Path, *settings: str, name: str = "best", change=None) -> tuple[Path, dict[str, torch.Tensor]]:
    """What a run writes: averaged and plain weights, which are not the same."""
    model, experiment = head(*settings, seed=1)
    averaged = {k: v.clone() for k, v in model.state_dict().items()}
    if change:
        change(averaged)
    tensors = {f"ema.head.{k}": v for k, v in averaged.items()}
    tensors |= {f"model.head.{k}": v + 1 for k, v in averaged.items()}
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / f"{name}.safetensors", {"step": 8, "experiment": experiment}, tensors)
    return folder / f"{name}.safetensors", averaged


def same(model, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_of_a_run_starts_a_head_with_its_averaged_weights(tmp_path):
    path, averaged = checkpoint(tmp_path)
    for place in (path, tmp_path):
        model, _ = head()
        start = start_from(model, place)
        assert same(model, averaged)
        assert (start.fresh, start.unused) == ([], [])
        assert str(path) in start.source
        assert "averaged head of step 8" in start.source


@pytest.mark.parametrize("prefix", ["", "head.", "module.", "ema.head.", "model.head."])
def test_a_heads_state_dict_is_found_under_any_prefix(prefix, tmp_path):
    _, averaged = checkpoint(tmp_path)
    torch.save({"state_dict": {prefix + k: v for k, v in averaged.items()}}, tmp_path / "x.pth")
    model, _ = head()
    assert start_from(model, tmp_path / "x.pth").fresh == []
    assert same(model, averaged)


def test_layers_of_the_second_stream_that_were_trained_apart_are_kept(tmp_path):
    path, averaged = checkpoint(tmp_path, "model.shared_decoder=false")
    name = next(k for k in averaged if k.startswith("anchor_layers."))
    assert start_from(head("model.shared_decoder=false")[0], path).fresh == []
    model, _ = head("model.shared_decoder=false")

    def apart(tensors):
        tensors[name] += 5

    path, averaged = checkpoint(tmp_path / "apart", "model.shared_decoder=false", change=apart)
    start_from(model, path)
    assert same(model, averaged)


def test_a_checkpoint_of_another_size_says_what_differs(tmp_path):
    path, _ = checkpoint(tmp_path, "model.ffn=160")
    model, _ = head()
    with pytest.raises(CheckpointError, match="does not fit this head") as refused:
        start_from(model, path)
    assert "model.ffn: 160 there" in refused.value.facts["settings"]
    assert "linear1" in refused.value.facts["misshapen"]


def test_another_number_of_attention_heads_is_refused_though_every_tensor_fits(tmp_path):
    model, experiment = head()
    other = experiment["model"]["heads"] * 2
    path, _ = checkpoint(tmp_path, f"model.heads={other}")
    with pytest.raises(CheckpointError, match="does not fit this head") as refused:
        start_from(model, path)
    assert f"model.heads: {other} there" in refused.value.facts["settings"]


def test_settings_that_leave_no_trace_are_said_when_they_differ(tmp_path, caplog):
    path, _ = checkpoint(tmp_path, "model.span_dropout=0.25")
    start_from(head()[0], path)
    assert "model.span_dropout 0.25" in caplog.text


def test_weights_that_are_no_numbers_start_nothing(tmp_path):
    def spoil(tensors):
        tensors["bbox_embed.layers.0.bias"][0] = float("nan")

    path, averaged = checkpoint(tmp_path, change=spoil)
    save_file(averaged, tmp_path / "plain.safetensors")
    for place in (path, tmp_path / "plain.safetensors"):
        model, _ = head()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"bbox_embed.layers.0.bias holds numbers that are not finite"):
            start_from(model, place)
        assert same(model, before)


def test_a_published_checkpoint_is_sent_to_weights_import_and_ours_away_from_it(tmp_path):
    torch.save(
        {"transformer.decoder.norm.weight": torch.ones(4), "query_embed.weight": torch.ones(1, 4)}, tmp_path / "x.pth"
    )
    with pytest.raises(CheckpointError) as refused:
        start_from(head()[0], tmp_path / "x.pth")
    assert "stvg weights import" in refused.value.facts["hint"]
    path, _ = checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="needs no import") as refused:
        import_weights(path, tmp_path / "out")
    assert "--init" in refused.value.facts["hint"]
    assert not (tmp_path / "out").exists()


SIDE_BY_SIDE = ("net-c3", "net-c4", "net-c5")


@pytest.mark.parametrize(("one", "several"), [(True, False), (False, True)])
def test_a_level_is_found_whether_or_not_its_name_says_its_encoder(one, several):
    settings = load_experiment("tiny", ["model.standardise=true"]).model
    names = ("c3 c4 c5", " ".join(SIDE_BY_SIDE))
    source, model = (
        build_model(settings, FeatureFacts(levels((34, 50, 92), (4, 8, 16), names[k]), 64), seed)
        for seed, k in enumerate((several, one))
    )
    found, start = fitting(model, Found(source.state_dict(), "a file"))
    assert (start.fresh, start.unused) == ([], [])
    assert torch.equal(
        found[f"level_proj.{names[one].split()[1]}.conv.weight"], [*source.level_proj.values()][1].conv.weight
    )
    assert {k for k in found if k.startswith("standards.")} == {
        k for k in model.state_dict() if k.startswith("standards.")
    }


def test_a_level_that_two_encoders_could_be_meant_by_or_of_another_size_is_drawn_afresh():
    config = load_experiment("tiny", ["model.memory_level=a-c5", "model.region_levels=[a-c3,b-c3]"]).model
    both = levels((34, 92, 34, 92), (4, 16, 4, 16), "a-c3 a-c5 b-c3 b-c5")
    source, _ = head()
    weights = dict(source.state_dict())
    for facts, settings in ((both, config), (levels((20, 50, 92), (4, 8, 16), "a-c3 a-c4 a-c5"), source.config)):
        start = fitting(build_model(settings, FeatureFacts(facts, 64)), Found(weights, "a file"))[1]
        assert any(name.startswith("level_proj.a-c3") for name in start.fresh)
        assert any(name.startswith("level_proj.c3") for name in start.unused)


SHARED = ("input_proj", "resizer", "encoder", "decoder", "bbox_embed", "query_embed")
SIZES = FeatureFacts(levels((512, 1024, 2048), (8, 16, 32)), 768)


@pytest.mark.parametrize(
    ("weights", "preset", "taken", "fresh", "unused"),
    [
        *[("mdetr", "paper", 195, 64, 0), ("mdetr", "tubedetr", 195, 8, 0), ("mdetr", "stcat", 170, 367, 1)],
        *[("tubedetr", "paper", 199, 60, 4), ("tubedetr", "tubedetr", 203, 0, 0), ("tubedetr", "stcat", 170, 367, 9)],
        *[("paper", "paper", 259, 0, 0), ("paper", "tubedetr", 199, 4, 60), ("paper", "stcat", 170, 367, 65)],
        *[("stcat", "stcat", 537, 0, 0), ("stcat", "paper", 0, 0, 0), ("stcat", "tubedetr", 0, 0, 0)],
    ],
)
def test_every_head_takes_over_what_the_others_have_in_common_with_it(weights, preset, taken, fresh, unused):
    """At the published sizes. What is not taken is named; a head of STCAT has nothing whole for the other two."""
    with torch.device("meta"):
        model, source = (
            build_model(load_experiment(name).model, SIZES)
            for name in (preset, {"mdetr": "tubedetr"}.get(weights, weights))
        )
    tensors = {k: torch.zeros(v.shape) for k, v in source.state_dict().items()}
    if weights == "mdetr":
        tensors = {k: v for k, v in tensors.items() if k.partition(".")[0] in SHARED}
        tensors["query_embed.weight"] = torch.zeros(100, 256)
    if not taken:
        with pytest.raises(CheckpointError, match="does not fit this head"):
            fitting(model, Found(tensors, "a file"))
        return
    found, start = fitting(model, Found(tensors, "a file"))
    assert (len(found), len(start.fresh), len(start.unused)) == (taken, fresh, unused)
    assert len(found) + len(start.fresh) == len(model.state_dict())
    assert all(name.split(".")[0] in str(start) for name in (*start.fresh, *start.unused))


def test_a_folder_without_a_head_says_which_files_it_was_searched_for(tmp_path):
    with pytest.raises(CheckpointError, match="no weights in") as refused:
        start_from(head()[0], tmp_path)
    assert "best.safetensors" in refused.value.facts["expected"]
