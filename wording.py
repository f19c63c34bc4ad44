"""Texts that messages share: counts, the essence of a library's message, and how to install an extra."""

from __future__ import annotations


def counted(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun: ``1 video``, ``2 videos``, ``1,204 videos``. ``more``: an irregular plural."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def install(extra: str) -> str:
    """The command that installs an extra. stvg is not on a package index, so it runs in the source folder."""
    return f"in the folder of stvg's source: uv sync --no-dev --inexact --extra {extra}, or pip install '.[{extra}]'"


def first_line(error: BaseException) -> str:
    """The first sentence of a library's error message, cut to 160 characters at a word."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    sentence = line.split(". ")[0]
    return sentence if len(sentence) <= 160 else f"{sentence[:160].rpartition(' ')[0] or sentence[:160]} …"
