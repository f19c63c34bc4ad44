"""Sentences, names and paths come from others; what they look like where people or programs read them."""

from __future__ import annotations

import unicodedata

BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
FORMULA = "=+-@\t\r\n"
"""What a cell of a spreadsheet begins with when it is more than text."""


def harmless(text: str) -> str:
    """Text without what would steer a terminal: control characters, halves of characters, and marks that turn the
    direction of reading."""
    return "".join("�" if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in BIDI else c for c in text)


def in_spreadsheet(text: str) -> str:
    """A cell that is shown as the text it is: a formula gets an apostrophe in front, as people type it there, and lines end
    in ``\\n``, which writers quote."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(tuple(FORMULA)) else text


def in_markdown(text: str) -> str:
    """A cell of a Markdown table: no column, element, link or emphasis comes of it."""
    text = harmless(text)
    for mark in "\\|`*[":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def in_latex(text: str) -> str:
    """Text between LaTeX commands, of which it adds none."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {"−": "$-$", "±": r"$\pm$", "Δ": r"$\Delta$", "≤": r"$\leq$", "×": r"$\times$"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in harmless(text))
