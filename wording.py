"""How messages count things, and how they say what to install."""

from __future__ import annotations


def counted(count: int, one: str, more: str | None = None) -> str:
    """``1 video``, ``2 videos``, ``1,204 videos``. ``more``: a plural that is not made with an s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def install(extra: str) -> str:
    """How an extra is installed: stvg is on no package index, so from the folder it was cloned into."""
    return f"in the folder of stvg's source: uv sync --no-dev --inexact --extra {extra}, or pip install '.[{extra}]'"
