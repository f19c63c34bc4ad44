"""Compare an encoder with recorded values. Matching names and shapes do not prove that weights belong to a network.

A JSON file: ``{"tolerance": 1e-3, "pictures": [{"height": 224, "width": 224, "mean": […], "std": […], "levels": {NAME:
{"shape": [C, h, w], "mean": …, "std": …}}}], "sentences": [{"sentence": "…", "shape": [tokens, width], "mean": …,
"std": …, "first": [the first values of the first token]}]}``.

The pixel values of a picture are ``(row · column + 17 · channel) mod 256``, from 0 to 255. The picture is normalised
with the file's ``mean`` and ``std``, given for values from 0 to 1. Differences are measured in units of the recorded
``std``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from .check import EncoderFindings
from .contract import Backbone
from .text_contract import TextEncoder

TOLERANCE = 1e-3
"""Default tolerance, as a fraction of the recorded std."""


def read_recorded(file: Path) -> dict[str, Any]:
    """The content of a file of recorded values. Raises UsageError if it cannot be read, or has no values."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(said, dict) or not (said.get("pictures") or said.get("sentences")):
            raise ValueError("no pictures and no sentences")
        require_values(said)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{file} cannot be read as recorded values", expected='{"pictures": […]} or {"sentences": […]}', found=error
        ) from None
    return said


def require_values(said: dict[str, Any]) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError for values that cannot be compared."""
    tables = [("sentence " + str(s["sentence"].strip()[:40]), s) for s in said.get("sentences", ())]
    for picture in said.get("pictures", ()):
        if not min(picture[side] for side in ("height", "width")) >= 1:
            raise ValueError("a picture has no size")
        colours = [picture[fact] for fact in ("mean", "std") if fact in picture]
        if any(len(colour) != 3 or not np.isfinite(colour).all() for colour in colours):
            raise ValueError("mean and std of a picture are three numbers")
        tables += picture["levels"].items()
    for name, values in tables:
        numbers = [*(values[fact] for fact in ("mean", "std") if fact in values), *values.get("first", ())]
        if not np.isfinite(
            np.array([*numbers, *values.get("shape", ()), said.get("tolerance", 1.0)], np.float64)
        ).all():
            raise ValueError(f"{name}: not all values are numbers")


def pattern(height: int, width: int, mean: Any, std: Any) -> Tensor:
    """The picture that values are recorded for: (1, 3, height, width), normalised."""
    rows, columns, channels = torch.arange(height), torch.arange(width), torch.arange(3)
    values = (rows[:, None] * columns + 17 * channels[:, None, None]) % 256
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    return ((values.double() / 255 - mean) / std).float()[None]


@torch.inference_mode()
def compare_pictures(backbone: Backbone, said: dict[str, Any], found: EncoderFindings) -> None:
    """Compare every level of every recorded picture, and note the result."""
    for picture in said.get("pictures", ()):
        height, width = picture["height"], picture["width"]
        for fact in ("mean", "std"):
            recorded, own = picture.get(fact), getattr(backbone, fact)
            if recorded is not None and not np.allclose(recorded, own, atol=1e-6):
                found.note(f"{fact} of the pixels: recorded {tuple(recorded)}, the encoder has {own}")
        pixels = pattern(height, width, picture.get("mean", backbone.mean), picture.get("std", backbone.std))
        if backbone.window > 1:
            pixels = pixels[:, None].expand(-1, backbone.window, -1, -1, -1)
        maps = backbone(pixels.to(backbone.device))
        for name, level in picture["levels"].items():
            if name not in maps:
                found.note(f"level {name} is recorded, the encoder returns {', '.join(maps)}")
            else:
                compare(f"{height} x {width}, level {name}", maps[name][0], level, said, found)


@torch.inference_mode()
def compare_sentences(text: TextEncoder, said: dict[str, Any], found: EncoderFindings) -> None:
    """Compare the features of every recorded sentence, and note the result."""
    for recorded in said.get("sentences", ()):
        features = torch.from_numpy(text.encode([recorded["sentence"]])[0])
        compare(f"{recorded['sentence']!r}", features, recorded, said, found)


def compare(what: str, value: Tensor, recorded: dict[str, Any], said: dict[str, Any], found: EncoderFindings) -> None:
    shape = list(value.shape)
    if shape != recorded.get("shape", shape):
        found.note(f"{what}: shape {shape}, recorded {recorded['shape']}")
        return
    value = value.double()
    own = {"mean": value.mean().item(), "std": value.std().item()}
    first = recorded.get("first", [])
    if len(first) > value.numel():
        found.note(f"{what}: {len(first)} first values are recorded, the encoder returns {value.numel()} in all")
        return
    apart = [abs(own[k] - recorded[k]) for k in own if k in recorded]
    apart += [abs(a - b) for a, b in zip(value.flatten()[: len(first)].tolist(), first, strict=True)]
    unit, tolerance = recorded.get("std", 1.0), said.get("tolerance", TOLERANCE)
    line = f"{what}: mean {own['mean']:.5f}, std {own['std']:.5f}"
    known = ", ".join(f"{k} {recorded[k]}" for k in own if k in recorded)
    if max(apart, default=0.0) > tolerance * unit:
        found.note(f"{line}; recorded {known}: weights and network do not belong together, or normalisation differs")
    else:
        found.note(None, f"{line} as recorded")
