"""How every benchmark prints what it found: Markdown tables, names on the left and figures on the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def heading(names: Sequence[str]) -> str:
    """The two lines above the rows."""
    return line(names) + "\n" + line(["---", *["---:"] * (len(names) - 1)])


def table(names: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table, and an empty line below it."""
    print("\n".join([heading(names), *map(line, rows)]) + "\n", flush=True)
