"""Recorded runs of published heads: facts in JSON, tensors in safetensors, both named after the head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor


@cache
def described(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


@cache
def tensors(file: Path) -> dict[str, Tensor]:
    return load_file(file)


@dataclass
class RecordedRun:
    """One case of a small recorded head."""

    folder: Path
    name: str
    head: ClassVar[str]

    @cached_property
    def facts(self) -> dict[str, Any]:
        return next(c for c in described(self.folder / f"{self.head}.json")["cases"] if c["name"] == self.name)

    @cached_property
    def recorded(self) -> dict[str, Tensor]:
        every = tensors(self.folder / f"{self.head}_io.safetensors")
        return {k.partition("/")[2]: v for k, v in every.items() if k.startswith(f"{self.name}/")}
