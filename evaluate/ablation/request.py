"""What an ablation can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import nearest
from ...errors import UsageError
from ...heads.training.options import TrainRequest
from ...objects import Location
from ...options import choose_device
from ...requested import Request, one_of

if TYPE_CHECKING:
    from .grid import Row, Table

LAUNCHERS = ("local", "ray")
PRESET = "paper-hcstvg"
"""The paper's tables are of HC-STVG v1."""


@dataclass(frozen=True, kw_only=True)
class AblateRequest(Request):
    """Which tables are made, from which caches, and what their cells have in common."""

    caches: Mapping[int | None, Location]
    """By resolution; None is the one all cells share but those that name a resolution."""
    asked: TrainRequest
    """The run of every cell. Its row may override settings, and its seed is its own."""
    tables: Sequence[str] = ()
    """Names of the paper's tables; empty: all but X, which needs a cache for each resolution."""
    grid: Path | None = None
    """A YAML file with rows, instead."""
    seeds: int = 1
    """Runs of every row."""
    test_split: str = "test"
    """The split that is scored."""
    out: Path = Path("runs/ablation")
    devices: str | None = None
    """Names divided by commas: one cell at a time on each. None: the best one."""
    launcher: str = one_of(LAUNCHERS, "local")

    def run_of(self, row: Row, seed: int) -> TrainRequest:
        """The run of one row and seed."""
        settings = (*self.asked.assignments, *row.settings, f"train.seed={seed}")
        return replace(self.asked, assignments=settings, **row.options)

    def chosen(self) -> list[Table]:
        """The tables that are asked for. Raises UsageError for a table there is none of, and for a grid that is none."""
        from .grid import TABLES, read_grid

        if self.grid and self.tables:
            raise UsageError("a grid stands instead of the paper's tables", hint="--grid or --table")
        if self.grid:
            return [read_grid(self.grid)]
        for name in self.tables:
            if name not in TABLES:
                raise UsageError(f"no table {name!r}", hint=nearest(name, TABLES))
        return [TABLES[name] for name in self.tables or (n for n in TABLES if n != "X")]

    def targets(self) -> list[str]:
        """Names of the devices. Raises UsageError for one that cannot be used."""
        return [str(choose_device(name)) for name in ([None] if self.devices is None else self.devices.split(","))]
