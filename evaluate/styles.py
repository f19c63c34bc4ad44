"""Tables as text: for the terminal, in Markdown, in LaTeX and as CSV. `STYLES` has one entry per style.

Every table of every command is written here. Cell texts may be untrusted, so every style escapes them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..untrusted import harmless, in_latex, in_markdown, in_spreadsheet

if TYPE_CHECKING:
    from pandas import DataFrame

FIGURE = re.compile(r"[-+]?\d[\d,.]*( ± [\d.]+)?( \([-+][\d.]+\))?")
"""A cell of figures, such as 1,234.5 or 47.16 ± 0.52 or 32.40 (-1.20)."""


@dataclass(frozen=True)
class Written:
    """A table: texts for people, and numbers for programs."""

    cells: DataFrame
    """One text per cell. Lines after the first are shown below the figure."""
    align: str
    """One letter per column: l or r."""
    title: str = ""
    notes: Sequence[str] = ()
    """Notes on the figures, each of one or more sentences."""
    sheet: DataFrame | None = None
    """One row per line, with every figure as a number; None: use ``cells``."""


def write_table(table: Written, style: str = "terminal") -> str:
    """Write a table in one of `STYLES`, ending in a newline. Raises UsageError for an unknown style."""
    if style not in STYLES:
        raise UsageError(f"there is no table style {style!r}", expected=", ".join(STYLES))
    return STYLES[style](table)


def terminal(table: Written) -> str:
    title = f"{table.title}\n" if table.title else ""
    rows = table.cells.to_numpy().tolist()
    return title + render(list(table.cells.columns), rows, table.align) + "".join(f"{n}\n" for n in table.notes)


def render(columns: Sequence[str], rows: Sequence[Sequence[str]], align: str, widest: int | None = None) -> str:
    """A table for the terminal. ``align``: one letter per column, l or r. Markup in cells is printed literally.

    ``widest``: cells with more characters are cut, with an ellipsis.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, side in zip(columns, align, strict=True):
        table.add_column(name, justify="left" if side == "l" else "right", no_wrap=True)
    for cells in rows:
        shown = map(harmless, cells)
        table.add_row(*(Text(c if widest is None or len(c) <= widest else c[: widest - 1] + "…") for c in shown))
    text = io.StringIO()
    Console(file=text, width=400, color_system=None).print(table)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines()) + "\n"


def markdown(table: Written) -> str:
    from tabulate import tabulate

    names, cells = [*map(in_markdown, table.cells.columns)], table.cells.map(in_markdown).to_numpy().tolist()
    sides = ["left" if side == "l" else "right" for side in table.align]
    text = tabulate(cells, names, "pipe", disable_numparse=True, colalign=sides)
    title = f"**{in_markdown(table.title)}**\n\n" if table.title else ""
    return title + "\n".join([text, *(f"\n{note}" for note in table.notes)]) + "\n"


def latex(table: Written) -> str:
    """A table as in a paper: figures without intervals, the title as caption, the notes as comments above it."""
    cells = table.cells.map(_in_paper).set_axis([*map(in_latex, table.cells.columns)], axis="columns")
    text = cells.to_latex(index=False, escape=False, column_format=table.align, caption=in_latex(table.title) or None)
    comments = [harmless(line) for note in table.notes for line in note.splitlines()]
    return "".join(f"% {line}\n" for line in [*comments, r"\usepackage{booktabs}"]) + text


def _in_paper(cell: str) -> str:
    """The first line of a cell. In figures, a hyphen before a digit becomes a minus sign."""
    first = cell.partition("\n")[0]
    if not FIGURE.fullmatch(first):
        return in_latex(first)
    return in_latex(re.sub(r"-(?=\d)", "−", first))


def csv(table: Written) -> str:
    sheet = table.cells if table.sheet is None else table.sheet
    texts = sheet.map(lambda cell: in_spreadsheet(cell) if isinstance(cell, str) else cell)
    return str(texts.to_csv(index=False, lineterminator="\n"))


STYLES: dict[str, Callable[[Written], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "csv": csv,
    "latex": latex,
}
