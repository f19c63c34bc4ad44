"""Texts that messages share: counts, and how to install an extra."""

from __future__ import annotations


def counted(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun: ``1 video``, ``2 videos``, ``1,204 videos``. ``more``: an irregular plural."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def install(extra: str) -> str:
    """The command that installs an extra. stvg is not on a package index, so it runs in the source folder."""
    return f"in the folder of stvg's source: uv sync --no-dev --inexact --extra {extra}, or pip install '.[{extra}]'"
