"""How an encoder is named: built in, ``timm:NAME``, ``hf:FOLDER``, ``torchvision:NAME``, ``file.py:Class``, or as a plugin.

Each of the two tables (`backbone`, `text`) has one row a kind; a row says how a name of its kind is built.
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
    """What is asked for. ``name``: without the kind's prefix."""

    name: str
    weights: str | None = None
    """A path, ``random``, or None for where this kind finds its own."""
    tokenizer: str | None = None
    """A folder; of encoders of sentences."""
    seed: int = 0
    """Of random weights."""
    device: torch.device = CPU

    @property
    def random(self) -> bool:
        return self.weights == "random"


@dataclass(frozen=True)
class EncoderKind(Generic[Encoder]):
    """One row. ``name`` ends with a colon where a name follows."""

    name: str
    what: str
    """For people: what it is and what it needs."""
    build: Callable[[EncoderRequest], Encoder]
    tokens: Callable[[EncoderRequest], TokenReader | None] = lambda _: None
    """What it reads of sentences, known without its weights; None: any length, or it is not known."""


def find(
    kinds: Sequence[EncoderKind[Encoder]], what: str, asked: EncoderRequest
) -> tuple[EncoderKind[Encoder], EncoderRequest]:
    """The kind of that name, and what is asked of it. Raises UsageError for a name of no kind."""
    exact = next((k for k in kinds[:-1] if k.name == asked.name and not k.name.endswith(":")), None)
    if exact:
        return exact, asked
    prefix, colon, rest = asked.name.partition(":")
    kind = next((kind for kind in kinds if colon and kind.name == f"{prefix}:"), None)
    if kind:
        if not rest:
            raise UsageError(f"{what} {asked.name!r} says no name after the colon", expected=kind.what)
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
