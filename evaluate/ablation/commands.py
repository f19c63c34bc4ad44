"""``stvg ablate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...console import Progress
from ...heads.training.options import run_options
from ...options import CACHE, FOLDER, OUT_FOLDER, choose_device, say
from ...outputs import naming_write_errors

if TYPE_CHECKING:
    from ...objects import Location
    from .grid import Table
    from .plan import Caches, Cell, Plan

WATCHED = 4
"""Cells whose steps are shown."""


@click.command(short_help="Re-run the paper's ablations from one cache.")
@click.option("--cache", "cache_path", type=CACHE, required=True, metavar="DIR", help="The cache all cells share.")
@click.option(
    "--cache-at",
    "others",
    type=(int, CACHE),
    multiple=True,
    metavar="RESOLUTION DIR",
    help="The cache of another resolution, for table X.",
)
@click.option(
    "--table", "names", multiple=True, help="III, IV, V, VI, VII, VIII, IX or X; may be repeated.  [all but X]"
)
@click.option("--grid", type=FOLDER, metavar="FILE", help="A YAML file with rows of your own instead.")
@run_options("paper-hcstvg", ": what every cell starts from")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of every row.")
@click.option("--test-split", default="test", show_default=True, help="Split to score.")
@click.option("--out", type=OUT_FOLDER, default=Path("runs/ablation"), show_default=True, help="Cells and tables.")
@click.option(
    "--devices",
    default=None,
    metavar="NAMES",
    help="cpu,cpu or cuda:0,cuda:1 …: one cell at a time on each.  [the best one]",
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: a task for each cell on the cluster of RAY_ADDRESS, or one of this machine.",
)
def ablate(
    cache_path: Location,
    others: tuple[tuple[int, Location], ...],
    names: tuple[str, ...],
    grid: Path | None,
    seeds: int,
    test_split: str,
    out: Path,
    devices: str | None,
    launcher: str,
    **given: Any,
) -> None:
    """Re-run the paper's ablations from one cache, or a grid of your own; finished cells never run again.

    Exits with 1 when a cell failed; the others are completed.

    \b
    Examples:
      stvg ablate --cache cache/hc1 --table III --seeds 3 --init weights/mdetr/head.safetensors
      stvg ablate --cache cache/hc1 --grid dropout.yaml --devices cuda:0,cuda:1
    """
    from ...config import nearest
    from ...heads.training.launched import require_alone
    from ...heads.training.options import TrainRequest
    from ...heads.training.owner import owned
    from .grid import TABLES, read_grid
    from .plan import Plan, open_caches

    require_alone("stvg ablate", "--devices and --launcher ray spread its cells")
    unknown = [n for n in names if n not in TABLES]
    if unknown or (grid and names):
        raise click.UsageError(
            f"no table {unknown[0]!r}; {nearest(unknown[0], TABLES)}" if unknown else "--grid or --table"
        )
    tables = [read_grid(grid)] if grid else [TABLES[n] for n in names or (n for n in TABLES if n != "X")]
    plan = Plan(out, {None: cache_path, **dict(others)}, TrainRequest(**given), seeds, test_split)
    on = [str(choose_device(name)) for name in ([None] if devices is None else devices.split(","))]
    opened = open_caches(plan)  # before anything is written
    with owned(out):
        failed = run_tables(tables, plan, opened, on, launcher)
    if failed:
        raise SystemExit(1)


def run_tables(tables: list[Table], plan: Plan, opened: Caches, on: list[str], launcher: str) -> int:
    """Run what is not finished, and write and print the tables; how many cells failed."""
    from ..styles import write_table
    from .launch import run_cells, run_on_ray
    from .plan import cells_of
    from .table import lines_of, write_all, written

    cells = cells_of(tables, plan, opened)
    for cell in cells:
        if news := cell.news():
            say(news)
    finished = sum(cell.result is not None for cell in cells)
    with (
        Progress("ablate", "cells", len(cells), finished, look=lambda: under_way(cells)) as bar,
        naming_write_errors(plan.out, effect="what is finished stays"),
    ):

        def ended(cell: Any, error: str | None) -> None:
            bar.step()
            if error:
                bar.say(f"{cell.row.label}, seed {cell.seed}, failed: {error}\n  see {cell.folder / 'log.txt'}")

        if launcher == "ray":
            failed = run_on_ray(cells, on[0].startswith("cuda"), ended)
        else:
            failed = run_cells(cells, on, ended)
    found = {table.name: (table, lines_of(table, plan, opened)) for table in tables}
    with naming_write_errors(plan.out, effect="the cells are complete; their tables are not written"):
        write_all(plan.out, found)
    for table, lines in found.values():
        say(write_table(written(table, lines)))
    counts = f"{len(cells)} cells, {finished} finished before, {len(failed)} failed"
    say(f"{counts} → {plan.out}/tables.md, tables.csv, tables.tex, plot.png")
    return len(failed)


def under_way(cells: Sequence[Cell]) -> list[str]:
    """The last reports of cells that train, the newest first."""
    now = []
    for cell in cells:
        metrics = cell.folder / "run" / "metrics.jsonl"
        if cell.result is None and metrics.exists():
            with suppress(OSError, ValueError, IndexError, KeyError):  # it is being written
                line = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
                text = f"{cell.row.label}, seed {cell.seed}: step {line['step']:,}"
                now.append((metrics.stat().st_mtime, text))
    return [text for _, text in sorted(now, reverse=True)[:WATCHED]]
