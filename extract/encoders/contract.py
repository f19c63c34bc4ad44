"""The interface of visual encoders, and what is shared by all of them: padding, checks, cropping, freezing, hashing.

An encoder class needs only the attributes ``levels``, ``mean``, ``std`` (and ``multiple``, ``window`` if they are not
1), and a call from pixels to maps. `Backbone` wraps it; the rest of the project uses only the wrapper.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...cache.schema import Level
from ...errors import EncoderError
from ...weights import some, state_sha256

Colour = tuple[float, float, float]
CPU = torch.device("cpu")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Origin:
    """Identity of an encoder. ``name``: as recorded in the recipe; ``source``: origin of its weights, for printing."""

    name: str
    source: str
    extra: bytes = b""
    """Bytes hashed together with the weights, such as a plugin's source and options."""
    make: Callable[[torch.device], Any] | None = None
    """Builds the same encoder on another device; for classes that cannot be moved."""


class Frozen(nn.Module):
    """An encoder in evaluation mode without gradients. ``sha256``: of its weights and of ``Origin.extra``."""

    def __init__(self, encoder: Any, origin: Origin, sha256: str | None = None) -> None:
        super().__init__()
        self.encoder, self.origin = encoder, origin
        if not isinstance(encoder, nn.Module):  # modules of a plain class are moved and frozen with this one
            parts = {k: v for k, v in vars(encoder).items() if isinstance(v, nn.Module)}
            self.parts = nn.ModuleDict(parts)
        self.eval().requires_grad_(False)
        self.sha256 = sha256 or state_sha256(self.state_dict(), origin.extra)

    @property
    def name(self) -> str:
        return self.origin.name

    @property
    def source(self) -> str:
        return self.origin.source

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next((t.device for t in [*self.parameters(), *self.buffers()]), CPU)

    @property
    def class_sha256(self) -> str:
        """Hash of ``Origin.extra`` without the weights: training does not change it."""
        return hashlib.sha256(self.origin.extra).hexdigest()

    def offers(self, part: str) -> bool:
        """Whether the wrapped class has this optional method."""
        return callable(getattr(self.encoder, part, None))

    def trained(self) -> list[nn.Parameter]:
        """The parameters to train end to end: all, unless the class has a method ``trained``."""
        return list(self.encoder.trained() if self.offers("trained") else self.parameters())

    def moved(self, encoder: Any, device: torch.device) -> Any:
        """``encoder`` on a device; a class that is no ``nn.Module`` is rebuilt there."""
        if isinstance(encoder, nn.Module):
            return encoder.to(device)
        return self.origin.make(device) if self.origin.make and device != CPU else encoder


class Backbone(Frozen):
    """Pixels (n, 3, H, W), normalised with ``mean`` and ``std`` → {level: (n, C, ⌈H / stride⌉, ⌈W / stride⌉)}.

    An encoder with a ``window`` above 1 takes (n, window, 3, H, W): each frame with its neighbours, see
    `sampling.neighbours`. Raises EncoderError, also in a call, if the class does not do what its attributes say.
    """

    def __init__(self, encoder: Any, origin: Origin, sha256: str | None = None) -> None:
        self.levels, self.mean, self.std, self.multiple, self.window = facts_of(encoder, origin.name)
        super().__init__(encoder, origin, sha256)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.checked(self.encoder(self.prepared(pixels)), pixels, self.levels)

    def early(self, pixels: Tensor) -> dict[str, Tensor]:
        """The maps of all levels but the last."""
        return self.checked(self.encoder.early(self.prepared(pixels)), pixels, self.levels[:-1])

    def last_stage(self, maps: Tensor) -> Tensor:
        """The last level from the maps (n, C, h, w) of the level before; used to train this stage on cached maps."""
        return self.encoder.last_stage(maps)

    @property
    def has_last_stage(self) -> bool:
        """Whether the last level can be computed from the level before. Not with padding, which cached maps lack."""
        return self.multiple == 1 and all(map(self.offers, ("early", "last_stage", "drop_early_stages")))

    def drop_early_stages(self) -> Backbone:
        """Free the stages that `last_stage` does not need; returns itself. For runs that read cached maps only."""
        self.encoder.drop_early_stages()
        return self

    def for_extraction(self, device: torch.device) -> Backbone:
        """The encoder on a device for inference: norms folded if the class can, 4-D weights in channels-last layout."""
        encoder = self.encoder.folded() if self.offers("folded") else self.encoder
        found = Backbone(self.moved(encoder, device), self.origin, self.sha256)
        for parameter in found.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return found

    def prepared(self, pixels: Tensor) -> Tensor:
        """Pixels in channels-last layout, in which convolutions are faster, and padded with zeros on the right and at the
        bottom, up to multiples of ``multiple``."""
        if pixels.dim() == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        right, bottom = (-size % self.multiple for size in (pixels.shape[-1], pixels.shape[-2]))
        return F.pad(pixels, (0, right, 0, bottom)) if right or bottom else pixels

    def checked(self, maps: Any, pixels: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Check names and shapes of maps; returns them in the order of the levels, cropped to the unpadded picture."""
        if not isinstance(maps, Mapping) or {*maps} != {level.name for level in levels}:
            raise EncoderError(
                f"encoder {self.name} does not return the levels it declares",
                expected=f"a dict of {', '.join(level.name for level in levels)}",
                found=some(map(str, maps)) if isinstance(maps, Mapping) else type(maps).__name__,
            )
        sizes = pixels.shape[-2:]
        whole = [size + -size % self.multiple for size in sizes]
        cropped = {}
        for level in levels:
            found, (h, w) = maps[level.name], (-(-size // level.stride) for size in whole)
            expected = (len(pixels), level.channels, h, w)
            if not isinstance(found, Tensor) or tuple(found.shape) != expected:
                raise EncoderError(
                    f"encoder {self.name}, level {level.name}: the map has another shape than the class declares",
                    expected=f"{expected} for pixels {(*pixels.shape[:-2], *whole)}, {level.channels} channels, "
                    f"stride {level.stride}",
                    found=tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__,
                    hint="correct levels or multiple in the class; stvg encoder check lists more faults",
                )
            rows, columns = (-(-size // level.stride) for size in sizes)
            cropped[level.name] = found[..., :rows, :columns]
        return cropped


def facts_of(encoder: Any, name: str) -> tuple[tuple[Level, ...], Colour, Colour, int, int]:
    """Levels, mean, std, multiple and window of a class. Raises EncoderError for invalid values."""
    try:
        levels = tuple(Level(str(n), index(c), index(s)) for n, c, s in (_triple(level) for level in encoder.levels))
        mean, std = _colour(encoder.mean), _colour(encoder.std)
        multiple, window = (index(getattr(encoder, fact, 1)) for fact in ("multiple", "window"))
    except (AttributeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"the attributes of encoder {name} cannot be read",
            expected="levels = [(name, channels, stride), …], mean = (r, g, b), std = (r, g, b)",
            found=error,
        ) from None
    names, strides = [level.name for level in levels], [level.stride for level in levels]
    faults = {
        "levels": not levels
        or len({name.lower() for name in names}) < len(names)
        or not all(re.fullmatch("[A-Za-z][A-Za-z0-9]{0,29}", n) for n in names),
        "channels": any(level.channels < 1 for level in levels),
        "strides": strides != sorted(strides) or min(strides, default=0) < 1,
        "mean, std": not all(0 < s <= 1 for s in std) or not all(m <= 1 for m in mean),
        "multiple, window": min(multiple, window) < 1,
    }
    if wrong := some(fact for fact, bad in faults.items() if bad):
        raise EncoderError(
            f"encoder {name} declares invalid values: {wrong}",
            expected="levels with distinct names of up to 30 letters and digits, finest first; mean, std for values 0 to 1",
            found=f"levels {[tuple(vars(level).values()) for level in levels]}, mean {mean}, std {std}, "
            f"multiple {multiple}, window {window}",
        )
    return levels, mean, std, multiple, window


def _colour(values: Any) -> Colour:
    red, green, blue = map(float, values)
    return red, green, blue


def _triple(level: Any) -> tuple[Any, Any, Any]:
    return (level.name, level.channels, level.stride) if isinstance(level, Level) else tuple(level)
