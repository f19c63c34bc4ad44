"""How tables are written, whatever is in them: for the terminal, in Markdown, in LaTeX, as CSV. A row a style.

Every table of every command passes through here. Its text comes from others, and is data in all styles.
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
"""What stands in a cell of figures: 1,234.5, 47.16 ± 0.52, 32.40 (-1.20)."""


@dataclass(frozen=True)
class Written:
    """A table as people read it, and as programs do."""

    cells: DataFrame
    """Texts, one a cell; a line after the first is what stands below a figure."""
    align: str
    """A letter a column: l or r."""
    title: str = ""
    notes: Sequence[str] = ()
    """What must be known of the figures, a sentence or some each."""
    sheet: DataFrame | None = None
    """A line a row, with every figure as a number; None: the cells."""


def write_table(table: Written, style: str = "terminal") -> str:
    """A table in a style of `STYLES`, ending in a newline. Raises UsageError for another one."""
    if style not in STYLES:
        raise UsageError(f"there is no table style {style!r}", expected=", ".join(STYLES))
    return STYLES[style](table)


def terminal(table: Written) -> str:
    title = f"{table.title}\n" if table.title else ""
    rows = table.cells.to_numpy().tolist()
    return title + render(list(table.cells.columns), rows, table.align) + "".join(f"{n}\n" for n in table.notes)


def render(columns: Sequence[str], rows: Sequence[Sequence[str]], align: str, widest: int | None = None) -> str:
    """A table for the terminal; ``align`` a letter a column, l or r. Cells are text, whatever marks are in them.

    ``widest``: more characters of a cell are cut off, with an ellipsis.
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
    cells = table.cells.map(in_markdown).set_axis([*map(in_markdown, table.cells.columns)], axis="columns")
    sides = ["left" if side == "l" else "right" for side in table.align]
    text = cells.to_markdown(index=False, disable_numparse=True, colalign=sides)
    title = f"**{in_markdown(table.title)}**\n\n" if table.title else ""
    return title + "\n".join([text, *(f"\n{note}" for note in table.notes)]) + "\n"


def latex(table: Written) -> str:
    """As in a paper: figures alone, the title for a caption, and what must be known of them in comments above."""
    cells = table.cells.map(_in_paper).set_axis([*map(in_latex, table.cells.columns)], axis="columns")
    text = cells.to_latex(index=False, escape=False, column_format=table.align, caption=in_latex(table.title) or None)
    comments = [harmless(line) for note in table.notes for line in note.splitlines()]
    return "".join(f"% {line}\n" for line in [*comments, r"\usepackage{booktabs}"]) + text


def _in_paper(cell: str) -> str:
    """A cell without what stands below its figure; signs as in formulas."""
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
