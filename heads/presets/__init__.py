"""Shipped head and training presets, as YAML overrides of the dataclasses."""

from __future__ import annotations

from importlib import resources


def presets() -> list[str]:
    """Names of the shipped presets."""
    names = (p.name for p in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
