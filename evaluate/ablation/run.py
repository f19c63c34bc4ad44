"""Run an ablation, from its request to its tables. Finished cells never run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...console import Progress
from ...heads.training.owner import owned
from ...options import say
from ...outputs import naming_write_errors
from ..styles import write_table
from .grid import Table
from .launch import run_cells, run_on_ray
from .plan import Cell, cells_of, open_caches
from .request import AblateRequest
from .table import Line, lines_of, sheet, write_all, written

if TYPE_CHECKING:
    from pandas import DataFrame

WATCHED = 4
"""Number of cells whose steps are shown."""


@dataclass(frozen=True)
class Ablated:
    """Result of an ablation."""

    tables: dict[str, tuple[Table, list[Line]]]
    cells: int
    finished: int
    """Number of cells that were finished before."""
    failed: int

    def __repr__(self) -> str:
        return self.table()

    def table(self, style: str = "terminal") -> str:
        """All tables as text: ``terminal``, ``markdown``, ``latex`` or ``csv``."""
        return "\n".join(write_table(written(*each), style) for each in self.tables.values())

    def to_frame(self) -> DataFrame:
        """One row per row of every table, figures in percent."""
        import pandas

        return pandas.concat([sheet(*each) for each in self.tables.values()], ignore_index=True)


def ablate_requested(request: AblateRequest) -> Ablated:
    """Run the unfinished cells, and write the tables. Cells that fail are reported, and the others complete.

    Raises UsageError if the caches do not hold the same samples, and for rows that cannot be run.
    """
    tables, on = request.chosen(), request.targets()
    opened = open_caches(request)  # before anything is written
    with owned(request.out):
        cells = cells_of(tables, request, opened)
        for cell in cells:
            if news := cell.news():
                say(news)
        finished = sum(cell.result is not None for cell in cells)
        failed = run_all(cells, request, on, finished)
        found = {table.name: (table, lines_of(table, request, opened)) for table in tables}
        with naming_write_errors(request.out, effect="the cells are complete; their tables are not written"):
            write_all(request.out, found)
    return Ablated(found, len(cells), finished, failed)


def run_all(cells: Sequence[Cell], request: AblateRequest, on: Sequence[str], finished: int) -> int:
    """Run the unfinished cells. Returns the number that failed."""
    with (
        Progress("ablate", "cells", len(cells), finished, look=lambda: under_way(cells)) as bar,
        naming_write_errors(request.out, effect="what is finished stays"),
    ):

        def ended(cell: Any, error: str | None) -> None:
            bar.step()
            if error:
                bar.say(f"{cell.row.label}, seed {cell.seed}, failed: {error}\n  see {cell.folder / 'log.txt'}")

        if request.launcher == "ray":
            return len(run_on_ray(cells, on[0].startswith("cuda"), ended))
        return len(run_cells(cells, on, ended))


def under_way(cells: Sequence[Cell]) -> list[str]:
    """The latest steps of cells in training, the newest first."""
    now = []
    for cell in cells:
        metrics = cell.folder / "run" / "metrics.jsonl"
        if cell.result is None and metrics.exists():
            with suppress(OSError, ValueError, IndexError, KeyError):  # it is being written
                line = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
                text = f"{cell.row.label}, seed {cell.seed}: step {line['step']:,}"
                now.append((metrics.stat().st_mtime, text))
    return [text for _, text in sorted(now, reverse=True)[:WATCHED]]
