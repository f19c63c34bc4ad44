"""Float32 is float32 on a GPU too, unless something else was asked for, and what was asked for is recorded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stvg.extract.encoders.text import build_text_encoder
from stvg.extract.features import encode
from stvg.heads.infer import read_windows
from stvg.heads.settings import load_experiment
from stvg.heads.training import loop
from stvg.heads.training.ranks import ALONE
from stvg.precision import computing_in, float32_products

CPU = torch.device("cpu")


def allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def torchs_own():
    """Convolutions in TF32, as torch starts; products too, as many programs set it."""
    before = allowed()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Asked(torch.nn.Module):
    """Says what was allowed while it ran."""

    def forward(self, *_: object):
        raise Found(allowed(), torch.is_autocast_enabled("cpu"))


class Found(Exception):
    pass


@pytest.mark.parametrize(
    ("amp", "tf32", "autocast"), [("none", False, False), ("tf32", True, False), ("bf16", False, True)]
)
def test_the_backbone_computes_in_what_the_recipe_says(amp, tf32, autocast):
    with pytest.raises(Found) as found:
        encode(Asked(), torch.zeros(1, 3, 4, 4), CPU, amp)
    assert found.value.args == ((tf32, tf32), autocast)
    assert allowed() == (True, True)


def test_text_and_scores_are_computed_in_float32(monkeypatch):
    text = build_text_encoder("tiny")
    monkeypatch.setattr(text, "forward", Asked().forward)
    for run in (lambda: text.encode(["a"]), lambda: read_windows(Asked(), None)):
        with pytest.raises(Found) as found:
            run()
        assert found.value.args[0] == (False, False)
    assert allowed() == (True, True)


@pytest.mark.parametrize("amp", ["none", "tf32", "bf16"])
def test_a_run_trains_in_what_its_settings_say(amp, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "train_epochs", lambda *_: seen.append(allowed()))
    monkeypatch.setattr(loop, "writers", lambda *_: [])
    run = SimpleNamespace(
        folder=tmp_path,
        model=torch.nn.Linear(1, 1),
        encoders=None,
        device=CPU,
        experiment=load_experiment("tiny", [f"train.amp={amp}"]),
        step=0,
        total_steps=1,
        ranks=ALONE,
        save=lambda name="last": None,
    )
    loop.train(run)
    assert seen == [(amp == "tf32", amp == "tf32")]
    assert allowed() == (True, True)


def test_one_precision_inside_another_comes_back():
    with float32_products(tf32=True):
        with computing_in("none", CPU):
            assert allowed() == (False, False)
        assert allowed() == (True, True)


def test_training_may_be_asked_for_tf32_and_for_nothing_unknown():
    assert load_experiment("tiny", ["train.amp=tf32"]).train.amp == "tf32"
    with pytest.raises(Exception, match="tf33"):
        load_experiment("tiny", ["train.amp=tf33"])
