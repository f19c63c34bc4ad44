"""Names of encoders: built in, ``timm:NAME``, ``hf:FOLDER``, ``torchvision:NAME``, ``file.py:Class``, or a plugin's.

The two tables (`backbone`, `text`) have one row per kind of name. The row's function builds the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from ...config import nearest
from ...errors import UsageError
from .contract import CPU
from .plugins import is_plugin, registered
from .tokenizer import TokenReader

Encoder = TypeVar("Encoder")


@dataclass(frozen=True)
class EncoderRequest:
    """A requested encoder. ``name``: without the prefix of its kind."""

    name: str
    weights: str | None = None
    """A path, ``random``, or None for the default place of this kind."""
    tokenizer: str | None = None
    """A folder; for text encoders."""
    seed: int = 0
    """Seed of random weights."""
    device: torch.device = CPU

    @property
    def random(self) -> bool:
        return self.weights == "random"


@dataclass(frozen=True)
class EncoderKind(Generic[Encoder]):
    """One row. ``name`` ends with a colon if a name follows it."""

    name: str
    what: str
    """Description for `stvg encoder list`: the encoder and its weights."""
    build: Callable[[EncoderRequest], Encoder]
    tokens: Callable[[EncoderRequest], TokenReader | None] = lambda _: None
    """Builds the tokenizer without weights; returns None if sentences of any length are read, or it is not known."""


def find(
    kinds: Sequence[EncoderKind[Encoder]], what: str, asked: EncoderRequest
) -> tuple[EncoderKind[Encoder], EncoderRequest]:
    """The row of a name, and the request without prefix. Raises UsageError for an unknown name."""
    exact = next((k for k in kinds[:-1] if k.name == asked.name and not k.name.endswith(":")), None)
    if exact:
        return exact, asked
    prefix, colon, rest = asked.name.partition(":")
    kind = next((kind for kind in kinds if colon and kind.name == f"{prefix}:"), None)
    if kind:
        if not rest:
            raise UsageError(f"{what} {asked.name!r} lacks a name after the colon", expected=kind.what)
        return kind, replace(asked, name=rest)
    last = kinds[-1]
    if is_plugin(asked.name):
        return last, asked
    if asked.name.rstrip(":").endswith(".py"):
        raise UsageError(f"{asked.name!r} names a file and no class", expected=f"{asked.name.rstrip(':')}:Class")
    names = [kind.name for kind in kinds[:-1]] + registered()
    raise UsageError(
        f"there is no {what} {asked.name!r}",
        expected=f"one of {', '.join(names)}, file.py:Class or package:Class",
        hint=nearest(asked.name, names),
    )
