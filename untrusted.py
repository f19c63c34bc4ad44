"""Escaping of untrusted texts (sentences, names, paths) for terminals, spreadsheets, Markdown and LaTeX."""

from __future__ import annotations

import unicodedata

BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
FORMULA = "=+-@\t\r\n"
"""First characters of a spreadsheet cell that can be a formula."""


def harmless(text: str) -> str:
    """Text with control characters, lone surrogates and bidi controls replaced, so it cannot control a terminal."""
    return "".join("�" if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in BIDI else c for c in text)


def in_spreadsheet(text: str) -> str:
    """A cell that a spreadsheet shows as plain text. A possible formula gets a leading apostrophe. Line ends become
    ``\\n``, which CSV writers quote."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(tuple(FORMULA)) else text


def in_markdown(text: str) -> str:
    """A cell of a Markdown table. Characters with a meaning in Markdown or HTML are escaped."""
    text = harmless(text)
    for mark in "\\|`*[":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def in_latex(text: str) -> str:
    """Text for LaTeX. Special characters are escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    special |= {"−": "$-$", "±": r"$\pm$", "Δ": r"$\Delta$", "≤": r"$\leq$", "×": r"$\times$"}
    special |= {mark: "\\" + mark for mark in "&%$#_{}"}
    return "".join(special.get(mark, mark) for mark in harmless(text))
