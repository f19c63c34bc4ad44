"""Several visual encoders in one cache: ``resnet101,timm:vit_small_patch14_dinov2``.

All encoders get the same frames in the same geometry, each with its own normalisation and padding. The name of a level
starts with its encoder's: ``resnet101-c5``. A head reads the levels that its settings name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .contract import Backbone, Frozen, Origin

BETWEEN = ","
"""Separates the names of encoders, and their weights."""


class Several(Backbone):
    """Encoders side by side: takes pixels from 0 to 255, not normalised; returns the levels of all encoders in order.

    Features equal those of each encoder alone, bit for bit. An encoder whose ``window`` is smaller than the largest one
    takes the middle frames.
    """

    def __init__(self, parts: Sequence[Backbone], names: Sequence[str], whole: Several | None = None) -> None:
        """``names``: prefixes of the level names, one per encoder. ``whole``: the superset if ``parts`` is a subset."""
        self.names, self.multiple = list(names), 1
        self.window = whole.window if whole else max(part.window for part in parts)
        self.mean, self.std = (0.0,) * 3, (1 / 255,) * 3  # this normalisation leaves pixels at 0 to 255
        self.levels = tuple(
            replace(level, name=f"{name}-{level.name}")
            for name, part in zip(names, parts, strict=True)
            for level in part.levels
        )
        origin = Origin(
            BETWEEN.join(part.name for part in parts),
            "; ".join(part.source for part in parts),
            b"\0".join(part.origin.extra for part in parts),
        )
        Frozen.__init__(
            self, nn.ModuleList(parts), whole.origin if whole else origin, whole.sha256 if whole else hash_of(parts)
        )

    @property
    def each(self) -> list[Backbone]:
        return [part for part in self.encoder if isinstance(part, Backbone)]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {
            f"{name}-{level}": maps
            for name, part in zip(self.names, self.each, strict=True)
            for level, maps in part(seen_by(part, pixels, self.window)).items()
        }

    @property
    def has_last_stage(self) -> bool:
        return False

    def trained(self) -> list[nn.Parameter]:
        return [parameter for part in self.each for parameter in part.trained()]

    def for_extraction(self, device: torch.device) -> Backbone:
        return Several([part.for_extraction(device) for part in self.each], self.names, self)

    def that_give(self, levels: Collection[str]) -> Backbone:
        """Only the encoders that compute one of these levels."""
        read = {level.rpartition("-")[0] for level in levels}
        kept = [(name, part) for name, part in zip(self.names, self.each, strict=True) if name in read]
        return Several([part for _, part in kept], [name for name, _ in kept], self)


def seen_by(part: Backbone, pixels: Tensor, window: int) -> Tensor:
    """The input of one encoder, from pixels 0 to 255: (n, 3, H, W), or (n, window, 3, H, W) if an encoder has a window.

    The arithmetic is that of `render.render`.
    """
    if window > 1:
        first = window // 2 - part.window // 2
        pixels = pixels[:, first : first + part.window] if part.window > 1 else pixels[:, window // 2]
    mean, std = (255 * torch.tensor(v, dtype=torch.float32, device=pixels.device) for v in (part.mean, part.std))
    return (pixels - mean[:, None, None]) / std[:, None, None]


def hash_of(parts: Sequence[Backbone]) -> str:
    """Hash of everything that decides the features of the encoders."""
    facts = [
        [part.sha256, [asdict(level) for level in part.levels], part.mean, part.std, part.multiple, part.window]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def build_several(name: str, weights: str | None, build: Callable[[str, str | None], Backbone]) -> Backbone:
    """The encoders of a comma-separated list of names.

    ``weights``: one entry per encoder, an empty one for the default place of its kind; or None or ``random`` for all.
    Raises UsageError if the numbers of names and weights differ.
    """
    names = [one.strip() for one in name.split(BETWEEN)]
    given = [one.strip() for one in (weights or "").split(BETWEEN)]
    if weights in (None, "random"):
        given = given * len(names)
    if len(given) != len(names):
        raise UsageError(
            f"{len(names)} encoders and {len(given)} weights",
            expected=f"weights for each of {', '.join(names)}, separated by commas; an empty entry for the default",
            found=weights,
        )
    if not all(names):
        raise UsageError(f"a name is missing in {name!r}", expected="names of encoders, separated by commas")
    return Several([build(n, w or None) for n, w in zip(names, given, strict=True)], called(names))


def called(names: Sequence[str]) -> list[str]:
    """Prefixes of the level names: each encoder's name without kind and folders, numbered if it occurs again."""
    found: list[str] = []
    for name in names:
        short = re.sub("[^A-Za-z0-9]", "", re.split(r"[:/\\]", name.rstrip(":/\\"))[-1])[:30] or "encoder"
        numbered = (f"{short}x{k}" for k in range(2, len(names) + 2))
        found.append(short if short not in found else next(n for n in numbered if n not in found))
    return found
