"""The runs of a folder: request, progress and scores of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import nearest
from ..errors import StvgError, UsageError
from ..heads.training.owner import OWNER, SILENCE, last_sign, read_owner
from ..heads.training.record import Record
from ..heads.training.schedule import steps_of
from ..objects import HEADER
from .compare import read_scores
from .metrics import METRICS, counted
from .styles import Written, write_table

if TYPE_CHECKING:
    from pandas import DataFrame

RECORD, METRICS_FILE = "record.json", "metrics.jsonl"
APART = frozenset({"wandb", "mlruns"})
"""Folders of trackers; they contain no runs and are not searched."""
SCORES = b'{\n "protocol"'
"""First bytes of a file written by `stvg evaluate --json`."""


@dataclass(frozen=True)
class Scoring:
    """Scores of a run on the split ``of``: means over all sentences, from 0 to 1."""

    of: str
    means: dict[str, float]


def list_runs(folder: Path) -> DataFrame:
    """One row per scoring of every run below ``folder``; one row for a run without scores. Scores are in percent.

    Raises UsageError if there is no run.
    """
    import pandas

    columns = ["run", "preset", "head", "cache", "state", "steps", "scored on", *METRICS[:-1]]
    rows = [row for run in runs_in(folder) for row in rows_of(run, folder)]
    if not rows:
        raise UsageError(f"{folder} holds no run", expected=f"folders of stvg train-head, with a {RECORD}")
    return pandas.DataFrame(rows, columns=columns)


def runs_in(folder: Path) -> Iterator[Path]:
    """Folders of runs, sorted by path."""
    for where, folders, files in os.walk(folder):
        if HEADER in files:  # a cache, whose units have records of their own
            folders.clear()
            continue
        folders[:] = sorted(set(folders) - APART)
        if RECORD in files:
            yield Path(where)


def rows_of(run: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of one run. A run with an unreadable record gets one row that says so."""
    name = str(run.relative_to(folder)) if run != folder else run.resolve().name
    try:
        record = Record.read(run / RECORD)
    except UsageError:
        yield {"run": name, "state": f"{RECORD} cannot be read"}
        return
    request, step = record.request, step_of(run)
    total = steps_of(record.data["training"]["samples"], request.experiment.train)[1] if record.data else None
    facts = {
        "run": name,
        "preset": request.preset,
        "head": request.experiment.model.head,
        "cache": Path(request.cache).name if "://" not in request.cache else request.cache,
        "state": "running" if is_running(run) else "finished" if step == total else "stopped",
        "steps": f"{step:,}" + ("" if total is None else f"/{total:,}"),
    }
    for scoring in [*scorings_of(run)] or [Scoring("", {})]:
        yield {**facts, "scored on": scoring.of, **{k: 100 * v for k, v in scoring.means.items()}}


def step_of(run: Path) -> int:
    """The step of the newest checkpoint, read from its header; 0 if there is no checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(run / "last.safetensors", "np") as file:
            return int(json.loads(file.metadata()["facts"])["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0


def is_running(run: Path) -> bool:
    """Whether a live process owns the folder. For another machine: whether the owner's last sign of life is recent."""
    try:
        owner, sign = read_owner(run / OWNER), last_sign(run / OWNER)
    except (OSError, UsageError):
        return False
    if owner is None or sign is None:
        return False
    return owner.lives() if owner.on_this_machine() else time.time() - sign < SILENCE


def scorings_of(run: Path) -> Iterator[Scoring]:
    """The best validation, and files of ``stvg evaluate --json`` in the folder; for an ablation's cell, also its test
    scores.
    """
    best = max(validations(run / METRICS_FILE), key=lambda line: line["validation"]["m_vIoU"], default=None)
    if best is not None:
        yield Scoring(f"{best.get('split', 'validation')}, best epoch", best["validation"])
    cell = run.parent / "cell.json"
    files = [(path.stem, path) for path in sorted(run.glob("*.json"))]
    if cell.exists():
        files.append((json.loads(cell.read_text("utf-8"))["test_split"], run.parent / "scores.json"))
    for name, path in files:
        try:
            with path.open("rb") as file:
                if file.read(len(SCORES)) != SCORES:
                    continue
            samples = [*read_scores(path).samples.values()]
        except (OSError, StvgError):
            continue
        if samples:
            yield Scoring(name, dict(zip(METRICS, counted(samples).mean(axis=0).tolist(), strict=True)))


def validations(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a metrics.jsonl with validation scores. Incomplete lines are skipped."""
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "validation" in line:
            yield line


def ordered(runs: DataFrame, column: str | None) -> DataFrame:
    """The rows sorted by a column: scores descending, others ascending. Raises UsageError for an unknown column."""
    if column is None:
        return runs
    if column not in runs.columns:
        raise UsageError(f"there is no column {column!r}", hint=nearest(column, list(runs.columns)))
    return runs.sort_values(column, ascending=column not in METRICS, kind="stable", na_position="last")


def format_runs(runs: DataFrame, style: str = "terminal") -> str:
    """The runs as text; ``style``: see `STYLES`. In CSV, scores are numbers."""
    align = "".join("r" if name in ("steps", *METRICS) else "l" for name in runs.columns)
    return write_table(Written(runs.map(text_of), align, sheet=runs), style)


def text_of(value: Any) -> str:
    """A cell as text: scores with two decimals, a dash for missing values."""
    if value is None or value != value or value == "":
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
