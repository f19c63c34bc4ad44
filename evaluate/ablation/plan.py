"""The cells of an ablation: the request and the folder of each.

A cell is one row with one seed. Its folder's name is derived from everything that affects the result. So rows that
several tables share run once, finished cells never run again, and interrupted cells continue. `launch` runs the cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...cache.contents import Contents
from ...cache.index import Cache
from ...config import flat
from ...errors import UsageError
from ...heads.initial import Found, fitting, read_head
from ...heads.table import build_model
from ...heads.training.request import RunRequest
from ...heads.training.resumption import FREE
from ...heads.training.state import feature_facts
from ...wording import counted
from .grid import Row, Table
from .request import AblateRequest


@dataclass(frozen=True)
class Opened:
    """A cache, and the parts of it that cells are trained on and scored on."""

    cache: Cache
    test_split: str
    found: dict[Any, dict[str, Contents]] = field(default_factory=dict)
    """Contents, by the values of a request that determine them."""

    def contents(self, request: RunRequest) -> dict[str, Contents]:
        """The data that a cell of a request reads, as ``train`` and as ``test``."""
        key = request.split, request.reads_pixels, request.sources.get("videos")
        if key not in self.found:
            splits = {"train": request.split, "test": self.test_split}
            self.found[key] = {part: request.contents(self.cache, split) for part, split in splits.items()}
        return self.found[key]

    def summary(self, request: RunRequest) -> dict[str, dict[str, Any]]:
        """Counts and digests, for the record of a cell."""
        parts = self.contents(request)
        return {k: {"videos": len(c.videos), "samples": c.samples, "digest": c.digest} for k, c in parts.items()}


Caches = Mapping[int | None, Opened]
"""Open caches by resolution, as in `AblateRequest`."""


def open_caches(plan: AblateRequest) -> Caches:
    """Open the caches of a plan. Raises UsageError if they do not hold the same videos and samples."""
    caches = {k: Cache.open(path, plan.asked.annotation_set) for k, path in plan.caches.items()}
    opened = {k: Opened(c, plan.test_split) for k, c in caches.items()}
    first = opened[None]
    for other in opened.values():
        ours, others = (o.contents(plan.asked.request(o.cache, "")) for o in (first, other))
        for mine, theirs in zip(ours.values(), others.values(), strict=True):
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
    folder: Path
    request: RunRequest
    """The request of its run, except for the device."""
    test_split: str
    started_from: str | None
    """SHA-256 of the weights that its head starts from, if any."""
    annotations: Mapping[str, str]
    """Name and SHA-256 of the annotation set."""
    data: Mapping[str, dict[str, Any]]
    """The data it is trained on and scored on; see `Opened.summary`."""

    def job(self) -> dict[str, Any]:
        """Content of cell.json: everything that the process of the cell needs."""
        told = ("request", "test_split", "started_from", "annotations", "data")
        return {name: value for name, value in asdict(self).items() if name in told}

    @property
    def result(self) -> dict[str, Any] | None:
        """Content of result.json; None while the cell is not finished."""
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def elsewhere(self) -> list[Path]:
        """Folders of the same row and seed, for other data in the cache."""
        settings, _, seed = self.folder.name.split("-")
        return sorted(p for p in self.folder.parent.glob(f"{settings}-*-{seed}") if p != self.folder)

    def news(self) -> str:
        """A message if its row trains again because the cache now holds other data; otherwise empty."""
        if self.folder.exists() or not (before := self.elsewhere):
            return ""
        try:
            then = json.loads((before[-1] / "cell.json").read_text(encoding="utf-8"))["data"]
        except (OSError, ValueError, KeyError):
            return ""
        parts = (f"{part} {amount(then[part])} then, {amount(self.data[part])} now" for part in self.data)
        return f"{self.row.label}, seed {self.seed}, trains again: the cache held other data then ({'; '.join(parts)})"


def amount(found: Mapping[str, Any]) -> str:
    """The amount of data that a cell's record names, as text."""
    return f"{counted(found['samples'], 'sample')} of {counted(found['videos'], 'video')}"


def cells_of(tables: Sequence[Table], plan: AblateRequest, opened: Caches | None = None) -> list[Cell]:
    """Every distinct cell of the tables, seed by seed. ``opened``: the caches, if they are already open.

    Raises UsageError for a cache or a setting that does not exist.
    """
    opened = opened or open_caches(plan)
    found: dict[Path, Cell] = {}
    for seed in range(plan.seeds):
        for row in (row for table in tables if not table.counts for row in table.rows):
            cell = cell_of(row, seed, plan, opened)
            found.setdefault(cell.folder, cell)
    return list(found.values())


def cell_of(row: Row, seed: int, plan: AblateRequest, opened: Caches) -> Cell:
    """The cell of one row and seed.

    The folder's name has a digest of everything that affects the result but the data, a digest of the data, and the
    seed.
    """
    resolution = row.resolution
    if resolution is not None and resolution == opened[None].cache.recipe.resolution:
        resolution = None
    if resolution not in opened:
        hint = f"--cache-at {resolution} DIR, a cache extracted with --resolution {resolution}"
        raise UsageError(f"there is no cache at resolution {resolution}", hint=hint)
    cache = opened[resolution].cache
    request = plan.run_of(row, seed).request(cache, "")
    data = opened[resolution].summary(request)
    start = require_fit(request, cache)  # raises before any cell is trained
    settings = flat(asdict(request.experiment))
    steps = {name: value for name, value in settings.items() if name not in FREE}
    splits = [request.split, request.val_split, plan.test_split]
    identity = _digest([steps, cache.recipe.fingerprint, *splits, request.protocol, start])
    folder = plan.out / "cells" / f"{identity[:12]}-{_digest(data)[:8]}-seed{seed}"
    return Cell(row, seed, folder, request, plan.test_split, start, cache.annotations.to_json(), data)


def require_fit(request: RunRequest, cache: Cache) -> str | None:
    """The SHA-256 of the weights that a head starts from, if any.

    Raises UsageError if the head needs levels that the cache does not keep, CheckpointError if the weights do not fit
    it.
    """
    model, mode = request.experiment.model, request.experiment.train.mode
    facts = feature_facts(cache.recipe, mode)
    model.levels(facts.levels)
    if request.init is None:
        return None
    with torch.device("meta"):
        head = build_model(model, facts, scored=request.experiment.loss.scores)
    return fitting(head, weights_at(Path(request.init)))[1].sha256


@cache
def weights_at(place: Path) -> Found:
    """The weights that rows start from, read once. Each cell checks that they are still the same."""
    return read_head(place)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parameters(row: Row, plan: AblateRequest, opened: Caches) -> int:
    """Number of parameters of a row's head."""
    experiment = plan.run_of(row, 0).experiment
    with torch.device("meta"):
        model = build_model(experiment.model, feature_facts(opened[None].cache.recipe, experiment.train.mode))
    return sum(p.numel() for p in model.parameters())
