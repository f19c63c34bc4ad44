"""CSV tables as spreadsheets save them: a header, then rows; separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....atomic import open_atomic
from ....config import nearest
from ....errors import AnnotationError
from ....untrusted import FORMULA
from ..json_file import text_of, unpacked
from ..validate import LARGEST, describe

SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """One line of a table. Every method raises AnnotationError that names line and column."""

    file: Path
    line: int
    cells: dict[str, str]

    def fault(self, column: str, message: str, **facts: object) -> AnnotationError:
        return AnnotationError(
            self.file, None, f"line {self.line}" + (f", {column}" if column else ""), message, **facts
        )

    def text(self, column: str) -> str:
        """Without white space around it; empty where the cell is empty or its column is missing."""
        return self.cells.get(column, "").strip()

    def required(self, column: str) -> str:
        if not (found := self.text(column)):
            raise self.fault(column, "empty", expected="a text")
        return found

    def whole(self, column: str, at_least: int = 0) -> int:
        value = self.number(column)
        if value != int(value) or not at_least <= value <= LARGEST:
            expected = f"a whole number from {at_least} to {LARGEST:,}"
            raise self.fault(column, "not such a number", expected=expected, found=describe(self.text(column)))
        return int(value)

    def number(self, column: str) -> float:
        try:
            value = float(self.text(column))
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST:
            raise self.fault(column, "not a number", found=describe(self.text(column)))
        return value


def read_table(file: Path, required: Sequence[str], optional: Sequence[str] | None) -> Iterator[Row]:
    """The rows of a table; empty lines are left out. Column names may be in any case and order.

    ``optional``: names of further columns; None: any further column is allowed. Raises AnnotationError for a column that
    is missing, unknown or there twice, for a line with more cells than columns, and for what is no text.
    """
    text = text_of(file, unpacked(file, "a CSV file"), "a CSV file")
    header = text.lstrip("\ufeff").partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip().lower() for name in next(lines, [])]
        _require_columns(file, names, required, optional)
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            row = Row(file, lines.line_num, {n: _plain(c) for n, c in zip(names, cells, strict=False)})
            if len(cells) > len(names):
                raise row.fault("", "more cells than columns", expected=f"{len(names)}", found=f"{len(cells)}")
            yield row
    except csv.Error as error:
        raise AnnotationError(file, None, f"line {lines.line_num}", "not CSV", found=error) from None


def _require_columns(file: Path, names: list[str], required: Sequence[str], optional: Sequence[str] | None) -> None:
    known = [*required, *(names if optional is None else optional)]
    expected = f"the columns {', '.join(required)}" + (f"; if wanted {', '.join(optional)}" if optional else "")
    expected += "; commas, semicolons or tabs between them"
    found = ", ".join(map(repr, names)) or "an empty file"
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise AnnotationError(file, None, "line 1", f"unknown column {name!r}", expected=expected, hint=hint)
        if names.count(name) > 1:
            raise AnnotationError(file, None, "line 1", f"the column {name!r} occurs twice", expected=expected)
    if missing := [name for name in required if name not in names]:
        message = f"no column {missing[0]!r}"
        raise AnnotationError(file, None, "line 1", message, expected=expected, found=found)


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table that `read_table` reads back, and that a spreadsheet shows as it is."""
    with open_atomic(file, text=True) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_guarded(cell) for cell in row] for row in rows)


def _guarded(cell: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front; so does one with apostrophes before
    a formula, so that exactly one is taken off again."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'").startswith(tuple(FORMULA)) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(tuple(FORMULA)) else cell
