"""The request of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import AT_LEAST_1, nearest, setting
from ...errors import UsageError
from ...heads.training.options import TrainRequest
from ...objects import Location
from ...options import choose_device
from ...requested import Request, one_of

if TYPE_CHECKING:
    from .grid import Row, Table

LAUNCHERS = ("local", "ray")
PRESET = "paper-hcstvg"
"""The paper's tables are measured on HC-STVG v1."""


@dataclass(frozen=True, kw_only=True)
class AblateRequest(Request):
    """The tables, their caches, and the common settings of their cells."""

    caches: Mapping[int | None, Location]
    """By resolution. None: the cache of all cells whose rows name no resolution."""
    asked: TrainRequest
    """The run of every cell. A row may override settings, and every cell has its own seed."""
    tables: Sequence[str] = ()
    """Names of the paper's tables. Empty: all but X, which needs one cache per resolution."""
    grid: Path | None = None
    """A YAML file with rows, used instead of the paper's tables."""
    seeds: int = setting(1, AT_LEAST_1)
    """Number of runs per row."""
    test_split: str = "test"
    """The split that is scored."""
    out: Path = Path("runs/ablation")
    devices: str | None = None
    """Names separated by commas; one cell at a time runs on each device. None: the best device."""
    launcher: str = one_of(LAUNCHERS, "local")

    def run_of(self, row: Row, seed: int) -> TrainRequest:
        """The training request of one row and seed."""
        settings = (*self.asked.assignments, *row.settings, f"train.seed={seed}")
        return replace(self.asked, assignments=settings, **row.options)

    def chosen(self) -> list[Table]:
        """The requested tables. Raises UsageError for an unknown table, and for an invalid grid."""
        from .grid import TABLES, read_grid

        if self.grid and self.tables:
            raise UsageError("a grid stands instead of the paper's tables", hint="--grid or --table")
        if self.grid:
            return [read_grid(self.grid)]
        for name in self.tables:
            if name not in TABLES:
                raise UsageError(f"no table {name!r}", hint=nearest(name, TABLES))
        return [TABLES[name] for name in dict.fromkeys(self.tables) or (n for n in TABLES if n != "X")]

    def targets(self) -> list[str]:
        """Names of the devices. Raises UsageError for a device that cannot be used."""
        return [str(choose_device(name)) for name in ([None] if self.devices is None else self.devices.split(","))]
