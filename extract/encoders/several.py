"""Several encoders of pictures in one cache: ``resnet101,timm:vit_small_patch14_dinov2``.

They see the same frames in the same geometry, each normalised in its own way and filled up to its own multiple. The levels
of each are called after it: ``resnet101-c5``. A head reads the levels it names.
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
"""Between the names, and between the weights, of encoders."""


class Several(Backbone):
    """Encoders side by side: takes pixels from 0 to 255, not normalised, and gives the levels of each encoder in turn.

    Features are those of each encoder alone, to the bit. An encoder with a smaller ``window`` than another's takes the
    middle of the longer one.
    """

    def __init__(self, parts: Sequence[Backbone], names: Sequence[str], whole: Several | None = None) -> None:
        """``names``: what the levels of each are called after. ``whole``: those of which these are a part."""
        self.names, self.multiple = list(names), 1
        self.window = whole.window if whole else max(part.window for part in parts)
        self.mean, self.std = (0.0,) * 3, (1 / 255,) * 3  # so that pixels keep their values
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
        """Those of the encoders that give any of some levels."""
        read = {level.rpartition("-")[0] for level in levels}
        kept = [(name, part) for name, part in zip(self.names, self.each, strict=True) if name in read]
        return Several([part for _, part in kept], [name for name, _ in kept], self)


def seen_by(part: Backbone, pixels: Tensor, window: int) -> Tensor:
    """Pixels (n, 3, H, W) from 0 to 255 as one encoder takes them; (n, window, 3, H, W) where another has a window.

    The arithmetic is that of `render.render`.
    """
    if window > 1:
        first = window // 2 - part.window // 2
        pixels = pixels[:, first : first + part.window] if part.window > 1 else pixels[:, window // 2]
    mean, std = (255 * torch.tensor(v, dtype=torch.float32, device=pixels.device) for v in (part.mean, part.std))
    return (pixels - mean[:, None, None]) / std[:, None, None]


def hash_of(parts: Sequence[Backbone]) -> str:
    """Of all that decides the features of each."""
    facts = [
        [part.sha256, [asdict(level) for level in part.levels], part.mean, part.std, part.multiple, part.window]
        for part in parts
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def build_several(name: str, weights: str | None, build: Callable[[str, str | None], Backbone]) -> Backbone:
    """The encoders of a list of names. ``weights``: as many, an empty one for where its kind keeps its own; or None or
    ``random`` for all. Raises UsageError for another number of them.
    """
    names = [one.strip() for one in name.split(BETWEEN)]
    given = [one.strip() for one in (weights or "").split(BETWEEN)]
    if weights in (None, "random"):
        given = given * len(names)
    if len(given) != len(names):
        raise UsageError(
            f"{len(names)} encoders and {len(given)} weights",
            expected=f"weights for each of {', '.join(names)}, divided by commas; nothing between two commas for its own",
            found=weights,
        )
    if not all(names):
        raise UsageError(f"a name is missing in {name!r}", expected="names of encoders, divided by commas")
    return Several([build(n, w or None) for n, w in zip(names, given, strict=True)], called(names))


def called(names: Sequence[str]) -> list[str]:
    """What the levels of each encoder are called after: its name without kind and folders, numbered if it comes again."""
    found: list[str] = []
    for name in names:
        short = re.sub("[^A-Za-z0-9]", "", re.split(r"[:/\\]", name.rstrip(":/\\"))[-1])[:30] or "encoder"
        numbered = (f"{short}x{k}" for k in range(2, len(names) + 2))
        found.append(short if short not in found else next(n for n in numbered if n not in found))
    return found
