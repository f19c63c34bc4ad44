"""How messages count things."""

from __future__ import annotations


def counted(count: int, one: str, more: str | None = None) -> str:
    """``1 video``, ``2 videos``, ``1,204 videos``. ``more``: a plural that is not made with an s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
