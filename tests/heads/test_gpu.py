"""What a GPU is given to do: all of it lies there, comes out as on a CPU, and is hardly ever waited for."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stvg.cache.index import Cache
from stvg.evaluate.evaluation import load_head, tubes_of
from stvg.heads.losses import Criterion
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training import loop as training
from stvg.heads.training.state import Run

from ..gpu import CPU, GPU, OnGpu, pretended_gpu
from .clips import CLIPS, FACTS, batch

SMALL = ("model.d=32", "model.ffn=48", "model.encoder_layers=2", "model.decoder_layers=2", "model.max_frames=12")
SMALL += ("train.amp=none",)
STILL = ("model.dropout=0", "model.span_dropout=0")
"""A GPU draws other random numbers."""
VARIANTS = {
    "paper": ("paper",),
    "tubedetr": ("tubedetr",),
    "stcat": ("stcat",),
    "baseline without its fast branch": ("tubedetr", "model.fast=false", "model.stride=3"),
    "whole maps": ("paper",),
    "no further levels": ("paper", "model.region_levels=[]"),
    "decoders not shared": ("paper", "model.shared_decoder=false"),
    "no gate, no scaling": ("paper", "model.fusion.gate=false", "model.fusion.scale=false"),
    "the published code's forms": ("paper", "loss.mrcl_form=framewise", "loss.label_form=softmax"),
}


def test_the_pretence_notices_what_is_left_behind_and_what_has_to_be_waited_for():
    with pretended_gpu() as gpu:
        there, mask = torch.ones(3).to(GPU), torch.arange(3, device=GPU) > 0
        assert (type(there), there.device, type(mask)) == (OnGpu, GPU, OnGpu)
        assert type(there + 1) is type(there * torch.tensor(2.0)) is OnGpu
        for left_behind in (lambda: there + torch.ones(3), lambda: torch.stack([there.sum(), torch.tensor(1.0)])):
            with pytest.raises(AssertionError, match="on the processor"):
                left_behind()
        with pytest.raises(AssertionError, match="on the processor"):
            torch.tensor(1.0).add_(there.sum())
        assert gpu.waits == []
        assert there[mask].cpu().tolist() == [1, 1]
        assert bool(there.sum() > 2)
        assert gpu.waits == ["aten::index", "aten::_to_copy", "aten::_local_scalar_dense"]


def loss_and_gradients(
    preset: str, settings: tuple[str, ...], whole: bool, device: torch.device
) -> tuple[float, dict[str, Any]]:
    experiment = load_experiment(preset, [*SMALL, *STILL, *settings])
    model = build_model(experiment.model, FACTS).to(device).train()
    inputs, targets = (part.to(device) for part in batch(CLIPS, whole))
    terms = Criterion(experiment.loss)(model(inputs, targets), targets, inputs.frame_padding)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_on_a_gpu_is_all_there_and_has_the_gradients_of_one_on_a_cpu(variant):
    preset, *settings = VARIANTS[variant]
    whole = variant == "whole maps"
    expected, here = loss_and_gradients(preset, tuple(settings), whole, CPU)
    with pretended_gpu():
        found, there = loss_and_gradients(preset, tuple(settings), whole, GPU)
    assert found == pytest.approx(expected, rel=1e-5)
    assert here.keys() == there.keys()
    scale = max(float(g.abs().max()) for g in here.values())
    for name, gradient in there.items():
        assert type(gradient) is OnGpu, name
        torch.testing.assert_close(gradient.held, here[name], rtol=1e-3, atol=1e-5 * scale, msg=name)


MODES = {"cached": "roi", "text": "roi", "last-stage": "full", "end-to-end": "roi"}


@pytest.mark.parametrize("mode", MODES)
def test_training_on_a_gpu_goes_as_on_a_cpu_and_finds_the_same_tubes(stvg_caches, synthetic, tmp_path, mode):
    cache = Cache.open(stvg_caches[MODES[mode]])
    settings = [*SMALL, *STILL, f"train.mode={mode}", "train.views=false"]
    settings += ["train.epochs=1", "train.batch_size=12", "train.log_every=1", "train.temporal_crop=false"]
    videos = synthetic / "vidor/video"

    def outcome(device: torch.device) -> tuple[list[float], dict[int, Any]]:
        run = Run(tmp_path / device.type, cache, load_experiment("tiny", settings), "train", device, {"videos": videos})
        lines: list[dict[str, Any]] = []
        training.train(run, report=lines.append)
        tubes = tubes_of(run.ema.model, run.open_split("test"), 4, device)
        return [line["loss"] for line in lines if "loss" in line], tubes

    here, tubes = outcome(CPU)
    with pretended_gpu():
        there, found = outcome(GPU)
    assert len(here) > 2
    np.testing.assert_allclose(there, here, rtol=2e-3)
    assert [(t.start, t.end) for t in found.values()] == [(t.start, t.end) for t in tubes.values()]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_on_a_gpu_as_if_it_had_never_stopped(stvg_caches, synthetic, tmp_path, mode):
    """What a checkpoint brings back lies where the next step needs it: weights, their average, the optimiser's state."""
    cache = Cache.open(stvg_caches[MODES[mode]])
    settings = [*SMALL, *STILL, f"train.mode={mode}", "train.views=false"]
    experiment = load_experiment("tiny", settings)

    def new_run() -> Run:
        return Run(tmp_path, cache, experiment, "train", GPU, {"videos": synthetic / "vidor/video"})

    with pretended_gpu():
        unbroken, resumed = new_run(), new_run()
        few = [unbroken.dataset.collate([unbroken.dataset[i] for i in (0, 1)])]
        for run in (unbroken, resumed):
            run.model.train()
        training.step(unbroken, few)
        unbroken.save()
        assert resumed.resume()
        for run in (unbroken, resumed):
            training.step(run, few)
        assert resumed.digest() == unbroken.digest()
        state = [v for of in resumed.optimizer.state.values() for v in of.values()]
        assert len(state) > 100
        for tensor in (*state, *resumed.model.state_dict().values(), *resumed.ema.state_dict().values()):
            assert tensor.device == GPU
        loaded = load_head(tmp_path / "last.safetensors", GPU)
        assert {t.device for t in loaded.model.state_dict().values()} == {GPU}


def test_a_head_that_starts_from_weights_lies_on_the_gpu_with_them(tiny_cache, tmp_path):
    experiment, cache = load_experiment("tiny", SMALL), Cache.open(tiny_cache)
    head = Run(tmp_path, cache, experiment, "train", CPU).model.head
    save_file(dict(head.state_dict()), tmp_path / "head.safetensors")
    with pretended_gpu():
        run = Run(tmp_path / "run", cache, experiment, "train", GPU, init=tmp_path / "head.safetensors")
        assert all(torch.equal(t.cpu(), head.state_dict()[k]) for k, t in run.model.head.state_dict().items())
        run.model.train()
        training.step(run, [run.dataset.collate([run.dataset[0]])])


def test_a_training_step_waits_for_the_gpu_once(tiny_cache, tmp_path, monkeypatch):
    """For whether its loss is a number, before the weights change. Logging and saving are between steps."""
    waits, step = [], training.step
    with pretended_gpu() as gpu:

        def counted(*arguments: Any) -> Any:
            gpu.waits.clear()
            terms = step(*arguments)
            waits.append(list(gpu.waits))
            return terms

        monkeypatch.setattr(training, "step", counted)
        settings = [*SMALL, "train.epochs=1", "train.batch_size=12"]
        cache = Cache.open(tiny_cache)
        training.train(Run(tmp_path, cache, load_experiment("tiny", settings), "train", GPU))
    assert len(waits) > 2
    assert waits == [["aten::_local_scalar_dense"]] * len(waits)


def test_the_script_for_a_gpu_writes_what_every_part_found_and_why_one_failed(tmp_path, monkeypatch):
    """A part that fails, one that is not done within its limit, and one that is."""
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    script = runpy.run_path(str(folder / "gpu.py"))
    script["LIMITS"]["resume"] = script["GRACE"] + 0.5
    words = ["--golden", str(tmp_path / "nowhere"), "--out", str(tmp_path), "--only", "resume", "ranks", "parity"]
    monkeypatch.setattr("sys.argv", ["gpu.py", *words])
    with pytest.raises(SystemExit) as stop:
        script["main"]()
    assert stop.value.code == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["part"], row["what"], "failed" in row) for row in rows if row["what"] != "all"] == [
        ("resume", "resume", True),
        ("ranks", "two ranks", False),
        ("parity", "parity", True),
    ]
    assert "its limit" in rows[0]["failed"]
    assert "FileNotFoundError" in rows[-2]["failed"]
    assert "| parity | parity | failed FileNotFoundError" in (tmp_path / "gpu.md").read_text()


@pytest.fixture(scope="module")
def stvg_caches(tiny_cache: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from ..conftest import extract_synthetic

    return {
        "roi": tiny_cache,
        "full": extract_synthetic(synthetic, tmp_path_factory.mktemp("full") / "full", levels="full"),
    }
