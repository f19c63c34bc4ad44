"""Many heads from one cache: the paper's tables III to X, or a grid of one's own, each cell trained and scored once.

A cell is one row with one seed. It is a folder of its own, found again by its settings, so rows that several tables share
run once, what is finished never runs again, and what was interrupted goes on. `launch` runs them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...cache.contents import Contents
from ...cache.index import Cache
from ...config import load_yaml, nearest
from ...errors import UsageError
from ...heads.experiment import load_experiment
from ...heads.table import build_model
from ...heads.training.resumption import FREE, flat
from ...heads.training.run import feature_facts
from ...objects import Location
from ...wording import counted
from ..published import ABLATED, PUBLISHED, Figures

NO_FRAME, NO_VIDEO = "model.fusion.frame_level=false", "model.fusion.video_level=false"
FULL = PUBLISHED[ABLATED]["all"]["FSM, paper, 224"]
"""The paper's full model, HC-STVG v1 at 224."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str
    settings: tuple[str, ...] = ()
    """On top of the preset and of what the command line sets."""
    paper: Figures | None = None
    resolution: int | None = None
    """Of the cache this row needs; None: the one of --cache."""


@dataclass(frozen=True)
class Table:
    """One ablation. ``counts``: only parameters are compared, nothing is trained."""

    name: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""
    counts: bool = False


TABLES = {
    table.name: table
    for table in (
        Table("III", "levels of feature matching", (
            Row("neither", (NO_FRAME, NO_VIDEO), (44.52, 31.43, 50.60, 27.07)),
            Row("frame level", (NO_VIDEO,), (45.84, 32.59, 53.62, 27.93)),
            Row("video level", (NO_FRAME,), (46.10, 32.72, 51.64, 27.67)),
            Row("both", (), FULL),
        )),
        Table("IV", "gates of frame-level matching", (
            Row("with gates", (), FULL),
            Row("without", ("model.fusion.gate=false",), (44.59, 31.14, 48.02, 27.50)),
        )),
        Table("V", "query matching", (
            Row("without", ("model.qmm=false",), (43.17, 31.35, 48.97, 24.14)),
            Row("with", (), FULL),
        ), note="The paper's two labels are swapped here: its text gives the gains that only this order has."),
        Table("VI", "number of queries", (
            Row("1", ("model.num_queries=1",), (45.39, 32.67, 53.17, 28.36)),
            Row("5", ("model.num_queries=5",), FULL),
            Row("10", ("model.num_queries=10",), (46.54, 33.41, 53.36, 29.14)),
            Row("15", ("model.num_queries=15",), (46.89, 33.59, 53.79, 28.62)),
            Row("25", ("model.num_queries=25",), (46.18, 32.91, 52.41, 28.45)),
        )),
        Table("VII", "parameters of each part", (
            Row("without either level", (NO_FRAME, NO_VIDEO)),
            Row("frame level", (NO_VIDEO,)),
            Row("video level", (NO_FRAME,)),
            Row("contrast (MRCL)", (NO_FRAME, NO_VIDEO, "loss.mrcl=2")),
        ), note="The paper prints 185.63, 187.21, 186.03 and 185.63 M; its video level holds 0.39 M that are never used. "
                "These are the head's own; ResNet-101 adds 42.39 M, RoBERTa 124.65 M.", counts=True),
        Table("VIII", "decoders of the two streams", (
            Row("shared", (), FULL),
            Row("of their own", ("model.shared_decoder=false",), (46.46, 33.37, 52.67, 26.64)),
        )),
        Table("IX", "learned weights of frames", (
            Row("with scaling", (), FULL),
            Row("without", ("model.fusion.scale=false",), (46.25, 33.52, 53.22, 27.67)),
        )),
        Table("X", "resolution", (
            Row("224", (), FULL, 224),
            Row("320", (), (47.92, 34.69, 55.12, 30.17), 320),
            Row("352", (), (48.63, 35.06, 55.48, 30.61), 352),
        ), note="Every resolution is a cache of its own: name them with --cache-at."),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What the cells have in common."""

    out: Path
    caches: Mapping[int | None, Location]
    """By resolution; None is the one of --cache."""
    preset: str = "paper-hcstvg"
    settings: tuple[str, ...] = ()
    seeds: int = 1
    split: str = "train"
    test_split: str = "test"
    protocol: str = "tubedetr"
    annotation_set: str | None = None
    """The set of every cache; None: the only one."""


@dataclass(frozen=True)
class Opened:
    """A cache, and what of it the cells train on and are scored on."""

    cache: Cache
    train: Contents
    test: Contents

    def summary(self) -> dict[str, dict[str, Any]]:
        """Counts and digests, for the record of a cell."""
        parts = {"train": self.train, "test": self.test}
        return {k: {"videos": len(c.videos), "samples": c.samples, "digest": c.digest} for k, c in parts.items()}


Caches = Mapping[int | None, Opened]
"""By resolution, as in `Plan`."""


def open_caches(plan: Plan) -> Caches:
    """The caches of a plan as they are now. Raises UsageError where they do not hold the same videos and samples."""
    caches = {k: Cache.open(path, plan.annotation_set) for k, path in plan.caches.items()}
    opened = {k: Opened(c, c.contents(plan.split), c.contents(plan.test_split)) for k, c in caches.items()}
    first = opened[None]
    for other in opened.values():
        for mine, theirs in ((first.train, other.train), (first.test, other.test)):
            if changes := mine.changes(replace(theirs, fingerprint=mine.fingerprint)):
                raise UsageError(
                    f"{other.cache.path} holds other videos or samples of {mine.split} than {first.cache.path}",
                    found="; ".join(changes),
                    effect="nothing was trained: rows could not be compared",
                    hint="extract what one of them lacks; stvg cache info says what was skipped",
                )
    return opened


@dataclass(frozen=True)
class Cell:
    """One row with one seed."""

    row: Row
    seed: int
    cache: Location
    fingerprint: str
    folder: Path
    annotations: Mapping[str, str]
    """Name and SHA-256 of the annotation set."""
    data: Mapping[str, dict[str, Any]]
    """What it trains on and is scored on, see `Opened.summary`."""

    @property
    def result(self) -> dict[str, Any] | None:
        """What it came to; None while it is not finished."""
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def elsewhere(self) -> list[Path]:
        """Folders of the same row and seed when the cache held other data."""
        settings, _, seed = self.folder.name.split("-")
        return sorted(p for p in self.folder.parent.glob(f"{settings}-*-{seed}") if p != self.folder)

    def news(self) -> str:
        """That its row trains again because the cache holds other data now; empty when it does not."""
        if self.folder.exists() or not (before := self.elsewhere):
            return ""
        try:
            then = json.loads((before[-1] / "cell.json").read_text(encoding="utf-8"))["data"]
        except (OSError, ValueError, KeyError):
            return ""
        parts = (f"{part} {amount(then[part])} then, {amount(self.data[part])} now" for part in self.data)
        return f"{self.row.label}, seed {self.seed}, trains again: the cache held other data then ({'; '.join(parts)})"


def amount(found: Mapping[str, Any]) -> str:
    """How much data a cell's record names."""
    return f"{counted(found['samples'], 'sample')} of {counted(found['videos'], 'video')}"


def read_grid(path: Path) -> Table:
    """A table of one's own. Raises UsageError for anything but rows with a label and settings.

    title: dropout
    rows:
      - {label: none, set: [model.dropout=0]}
      - {label: a fifth, set: [model.dropout=0.2]}
    """
    found = load_yaml(path)
    unknown = sorted(found.keys() - {"title", "rows"})
    if unknown:
        raise UsageError(f"{path} has no entry {unknown[0]!r}", hint=nearest(unknown[0], ("title", "rows")))
    rows = found.get("rows")
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise UsageError(f"{path} is no grid", expected="rows: [{label: …, set: [group.setting=value, …]}, …]")
    made = tuple(Row(str(row["label"]), tuple(map(str, row.get("set", [])))) for row in rows)
    return Table(path.stem, str(found.get("title", path.stem)), made)


def _is_row(found: object) -> bool:
    return (
        isinstance(found, dict)
        and "label" in found
        and found.keys() <= {"label", "set"}
        and isinstance(found.get("set", []), list)
    )


def cells_of(tables: Sequence[Table], plan: Plan, opened: Caches | None = None) -> list[Cell]:
    """Every distinct cell of some tables, seed by seed. ``opened``: the caches, where they were opened before.

    Raises UsageError for a cache or a setting that is not there.
    """
    opened = opened or open_caches(plan)
    found: dict[Path, Cell] = {}
    for seed in range(plan.seeds):
        for row in (row for table in tables if not table.counts for row in table.rows):
            cell = cell_of(row, seed, plan, opened)
            found.setdefault(cell.folder, cell)
    return list(found.values())


def cell_of(row: Row, seed: int, plan: Plan, opened: Caches) -> Cell:
    """The cell of one row and seed. Its folder is named after everything that makes a difference, the data apart."""
    resolution = row.resolution
    if resolution is not None and resolution == opened[None].cache.recipe.resolution:
        resolution = None
    if resolution not in opened:
        hint = f"--cache-at {resolution} DIR, a cache extracted with --resolution {resolution}"
        raise UsageError(f"there is no cache at resolution {resolution}", hint=hint)
    cache, data = opened[resolution].cache, opened[resolution].summary()
    experiment = load_experiment(plan.preset, settings_of(row, seed, plan))
    experiment.model.levels(feature_facts(cache.recipe, experiment.train.mode).levels)  # refused before others train
    settings = flat(asdict(experiment))
    steps = {name: value for name, value in settings.items() if name not in FREE}
    identity = _digest([steps, cache.recipe.fingerprint, plan.split, plan.test_split, plan.protocol])
    folder = plan.out / "cells" / f"{identity[:12]}-{_digest(data)[:8]}-seed{seed}"
    return Cell(row, seed, cache.path, cache.recipe.fingerprint, folder, cache.annotations.to_json(), data)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def settings_of(row: Row, seed: int, plan: Plan) -> list[str]:
    return [*plan.settings, *row.settings, f"train.seed={seed}"]


def parameters(row: Row, plan: Plan) -> int:
    """How many parameters the head of a row has."""
    experiment = load_experiment(plan.preset, [*plan.settings, *row.settings])
    with torch.device("meta"):
        model = build_model(
            experiment.model, feature_facts(Cache.open(plan.caches[None]).recipe, experiment.train.mode)
        )
    return sum(p.numel() for p in model.parameters())
