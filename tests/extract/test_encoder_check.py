"""`stvg encoder check` names each of many faults that classes of users can have, and finds none in good ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch

from stvg.errors import UsageError
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.check import check_backbone, check_text
from stvg.extract.encoders.recorded import pattern, read_recorded
from stvg.extract.encoders.text import build_text_encoder

from ..encoders import WORDS

GOOD = (
    """
import torch
from torch import nn

import torch.nn.functional as F


class Good(nn.Module):
    levels = [("fine", 4, 4), ("coarse", 6, 8)]
    mean = std = (0.5, 0.5, 0.5)
    multiple = 8

    def __init__(self, weights, device):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 2, 2)
        if weights != "random":
            self.load_state_dict(torch.load(weights, weights_only=True))
        self.to(device)

    def forward(self, pixels):
        fine = self.fine(pixels)
        return {"fine": fine, "coarse": self.coarse(fine)}

    def changed(self, pixels, **levels):
        found = Good.forward(self, pixels)
        return {**found, **{name: change(found[name]) for name, change in levels.items()}}
"""
    + WORDS
)

# A body of a class beside Good, and what the finding says.
FAULTS = {
    "wrong channels": (
        "def forward(s, p): return s.changed(p, coarse=lambda m: m[:, :5])",
        "level coarse: the map has another shape",
    ),
    "wrong stride": (
        "levels = [('fine', 4, 4), ('coarse', 6, 16)]",
        "level coarse: the map has another shape",
    ),
    "odd sizes": (
        "multiple = 1",
        "pictures of 17 x 31: encoder bad.py:Bad, level fine",
    ),
    "a missing level": (
        "def forward(s, p): return {'fine': s.fine(p)}",
        "does not return the levels it declares; expected a dict of fine, coarse; found fine",
    ),
    "levels swapped": (
        "def forward(s, p): a, b = Good.forward(s, p).values(); return {'fine': b, 'coarse': a}",
        "level fine: the map has another shape",
    ),
    "no dict": (
        "def forward(s, p): return list(Good.forward(s, p).values())",
        "found list",
    ),
    "an exception": (
        "def forward(s, p): return 1 / 0",
        "pictures of 16 x 24: ZeroDivisionError: division by zero",
    ),
    "an exit": (
        "def forward(s, p): raise SystemExit(3)",
        "pictures of 16 x 24: SystemExit: 3",
    ),
    "an exception later on": (
        "def forward(s, p): s.calls = getattr(s, 'calls', 0) + 1; return Good.forward(s, p) if s.calls < 6 else 1 / 0",
        "while it was tried: ZeroDivisionError: division by zero",
    ),
    "no memory": (
        "multiple = 10 ** 9",
        "while it was tried: RuntimeError",
    ),
    "NaN": (
        "def forward(s, p): return s.changed(p, coarse=lambda m: m.log())",
        "level coarse: .* are NaN or infinite",
    ),
    "dropout": (
        "def forward(s, p): return s.changed(p, fine=lambda m: F.dropout(m, 0.1))",
        "level fine: two calls give other values",
    ),
    "train mode": (
        "def forward(s, p): s.train(); return Good.forward(s, p)",
        "is in training mode after a call",
    ),
    "batch statistics": (
        "def forward(s, p): return s.changed(p, coarse=lambda m: m - m.mean(0))",
        "level coarse: alone it differs from itself",
    ),
    "too large for float16": (
        "def forward(s, p): return s.changed(p, fine=lambda m: m * 1e6)",
        "level fine: .* is beyond float16",
    ),
    "too small for float16": (
        "def forward(s, p): return s.changed(p, fine=lambda m: m * 1e-8)",
        "level fine: .* too small",
    ),
    "blind": (
        "def forward(s, p): return s.changed(p, fine=lambda m: m * 0 + 1)",
        "level fine does not depend on the pixels",
    ),
    "weights ignored": (
        "def __init__(s, w, d): torch.manual_seed(0); super().__init__('random', d)",
        "ignores its weights",
    ),
    "hidden layers with gradients": (
        "def forward(s, p): w = torch.ones((), requires_grad=True); return s.changed(p, fine=lambda m: m * w)",
        "level fine carries gradients",
    ),
    "wrong type": (
        "def forward(s, p): return s.changed(p, coarse=lambda m: m.double())",
        "level coarse has the wrong type: torch.float64",
    ),
    "wrong device": (
        "def forward(s, p): return s.changed(p, coarse=lambda m: m.to('meta'))",
        "level coarse lies on meta, the pixels on cpu",
    ),
    "pixels changed": (
        "def forward(s, p): out = Good.forward(s, p); p.mul_(2); return out",
        "the call changes the pixels",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classes")


def found_in(folder: Path, source: str, name: str, weights: str = "random") -> list[str]:
    (folder / "bad.py").write_text(source)
    name = f"{folder / 'bad.py'}:{name}"
    backbone = build_backbone(name, weights)
    return check_backbone(backbone, lambda w, s: build_backbone(name, w, s), weights, 0, 32).faults


def test_nothing_is_wrong_with_a_good_class_and_the_built_in_ones(folder):
    assert found_in(folder, GOOD, "Good") == []
    torch.save(build_backbone(f"{folder / 'bad.py'}:Good", "random", seed=1).encoder.state_dict(), folder / "w.pt")
    assert found_in(folder, GOOD, "Good", str(folder / "w.pt")) == []
    assert check_backbone(build_backbone("tiny"), lambda w, s: build_backbone("tiny", w, s), None, 0, 32).faults == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault, folder):
    code, said = FAULTS[fault]
    found = found_in(folder, f"{GOOD}\n\nclass Bad(Good):\n    {code}\n", "Bad")
    assert found
    assert any(re.search(said, line) for line in found), found


def test_weights_of_a_file_that_are_not_read_are_noticed(folder):
    torch.save({}, folder / "unread.pt")
    code = "def __init__(s, w, d): super().__init__('random', d)"
    found = found_in(folder, f"{GOOD}\n\nclass Bad(Good):\n    {code}\n", "Bad", str(folder / "unread.pt"))
    assert found == ["other weights give the same features: it ignores its weights"]


TEXT_FAULTS = {
    "def __call__(s, x): return [f[:0] for f in Words.__call__(s, x)]": "has no tokens",
    "def __call__(s, x): s.n = getattr(s, 'n', 0) + 1; return Words.__call__(s, x) if s.n < 2 else 1 / 0": "ZeroDivision",
    "width = 6": "does not return what it declares",
    "def __call__(s, x): return Words.__call__(s, x)[:-1]": "does not return what it declares",
    "def __call__(s, x): return [f / 0 for f in Words.__call__(s, x)]": "NaN or infinite",
    "def __call__(s, x): return [f + torch.rand(()) for f in Words.__call__(s, x)]": "two calls give other values",
    "def __call__(s, x): return [f + len(x) for f in Words.__call__(s, x)]": "alone it differs from itself",
    "def __call__(s, x): return Words.__call__(s, ['a' for _ in x])": "different sentences have the same features",
    "def __init__(s, w, d): torch.manual_seed(0); super().__init__(w, d)": "ignores its weights",
}


@pytest.mark.parametrize("code", ["pass", *TEXT_FAULTS])
def test_a_fault_of_a_text_encoder_is_named(code, folder):
    (folder / "bad.py").write_text(f"{GOOD}\n\nclass Bad(Words):\n    {code}\n")
    name = f"{folder / 'bad.py'}:Bad"
    text = build_text_encoder(name, "random")
    found = check_text(text, lambda w, s: build_text_encoder(name, w, None, s), "random", 0).faults
    assert found == [] if code == "pass" else any(TEXT_FAULTS[code] in line for line in found), found


def test_recorded_values_tell_one_network_from_its_twin(stvg, tmp_path):
    """Both read the same weights without a complaint; one pads as the weights were trained with."""
    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "w.pth")
    right = build_backbone("timm:tf_efficientnet_lite0", tmp_path / "w.pth")
    with torch.inference_mode():
        maps = right(pattern(64, 96, right.mean, right.std))
    levels = {k: {"shape": list(m.shape[1:]), "mean": m.mean().item(), "std": m.std().item()} for k, m in maps.items()}
    picture = {"height": 64, "width": 96, "mean": right.mean, "std": right.std, "levels": levels}
    (tmp_path / "values.json").write_text(json.dumps({"pictures": [picture]}))
    options = ("--weights", tmp_path / "w.pth", "--values", tmp_path / "values.json", "--resolution", 32)
    agreed = stvg("encoder", "check", "timm:tf_efficientnet_lite0", *options)
    assert agreed.code == 0, agreed.out
    assert "64 x 96, level s32" in agreed.out
    other = stvg("encoder", "check", "timm:efficientnet_lite0", *options)
    assert other.code == 1
    assert "weights and network do not belong together" in other.out
    assert "mean of the pixels: recorded" in other.out


def test_the_kinds_are_listed_and_a_file_of_no_values_is_refused(stvg, tmp_path):
    listed = stvg("encoder", "list").out
    assert all(
        kind in listed for kind in ("resnet101", "timm:NAME", "hf:FOLDER", "torchvision:swin3d_t", "file.py:Class")
    )
    picture = {"height": 16, "width": 16, "levels": {"c3": {}}}
    for content in (
        [],
        {"pictures": [{}]},
        {"pictures": [3]},
        {"pictures": [{**picture, "height": -1}]},
        {"pictures": [{**picture, "levels": []}]},
        {"pictures": [{**picture, "mean": [0.5]}]},
        {"pictures": [{**picture, "levels": {"c3": {"mean": "x"}}}]},
        {"pictures": [{**picture, "levels": {"c3": {"std": float("nan")}}}]},
        {"pictures": [picture], "tolerance": "x"},
        {"sentences": [{"sentence": 3}]},
    ):
        (tmp_path / "v.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match="cannot be read as recorded values"):
            read_recorded(tmp_path / "v.json")
    text = stvg("encoder", "check", "tiny", "--text")
    assert (text.code, "nothing wrong was found" in text.out) == (0, True)
