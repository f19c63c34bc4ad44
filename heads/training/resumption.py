"""Resuming a run: which settings and data must equal those of the checkpoint, and which may differ because the steps
taken would be the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...cache.contents import Contents
from ...config import flat
from ...errors import CheckpointError
from ..settings import TrainConfig
from .schedule import learning_rate, warm_up

SAME = ("experiment", "features", "fingerprint", "split", "started_from")
"""Facts in which a checkpoint and the resuming run must agree, except for the settings below."""
FREE = ("train.log_every", "train.save_every", "train.eval_every", "train.recompute")
"""Settings that affect no step."""
SCHEDULE = ("train.epochs", "train.lr_drop", "train.warmup", "train.lr_backbone", "train.lr_text")
"""Settings that affect the learning rates only. They may change where the rates of all steps taken stay the same."""
ANOTHER = "choose another --out folder, or repeat the command that started this run"


@dataclass(frozen=True)
class Standing:
    """The progress of a run, and what its learning rates depend on."""

    step: int
    steps_per_epoch: int
    config: TrainConfig
    """The settings requested now."""
    groups: Sequence[str]
    """The parameter groups with a learning rate each."""

    def rate(self, config: TrainConfig, step: int, group: str) -> float:
        return learning_rate(config, step, self.steps_per_epoch * config.epochs, self.steps_per_epoch, group)

    def obstacle(self, before: Mapping[str, Any]) -> tuple[str, str | None]:
        """Why the steps taken would differ with the settings requested now, and a hint; empty where they would not.

        ``before``: the training settings that differ, by name, with their earlier values.
        """
        config, then = self.config, replace(self.config, **before)
        for step in range(self.step):
            for group in self.groups:
                was, now = self.rate(then, step, group), self.rate(config, step, group)
                if was != now:
                    why = f"the learning rate ({group}) of step {step + 1} was {was:.4g}, and would have been {now:.4g}"
                    return why, self.same_warm_up(then) if group != "text" else None
        return "", None

    def same_warm_up(self, then: TrainConfig) -> str | None:
        """A hint with the ``warmup`` that gives the earlier number of warm-up steps; None where that number is the
        same, or cannot be reached."""
        was, total = (self.steps_per_epoch * c.epochs for c in (then, self.config))
        warm, share = warm_up(then, was), f"{then.warmup * was / total:.6g}"
        if warm_up(self.config, total) == warm or warm_up(replace(self.config, warmup=float(share)), total) != warm:
            return None
        return f"--set train.warmup={share} keeps its {warm:,} steps of warm-up (a share of all steps)"


def require_same(folder: Path, saved: dict[str, Any], facts: dict[str, Any], standing: Standing, data: Contents) -> str:
    """The settings that differ from those of a checkpoint, and may. Raises CheckpointError where it is another run's.

    ``saved``: the facts of the checkpoint. ``facts``: those of the run to resume. ``data``: the data it reads.
    """
    now = json.loads(json.dumps(facts))
    differing = [k for k in SAME if saved.get(k) != now[k]]
    changed = different(saved["experiment"], now["experiment"])
    why, hint = "", None
    if not changed.keys() - {*FREE, *SCHEDULE}:
        before = {name.removeprefix("train."): was for name, (was, _) in changed.items()}
        why, hint = standing.obstacle(before)
        differing = [k for k in differing if k != "experiment" or why]
    if differing:
        raise CheckpointError(
            f"{folder} holds a run with another {' and '.join(differing)}",
            **{k: f"run has {saved.get(k)}, asked for {now[k]}" for k in differing if k != "experiment"},
            settings=told(changed) if "experiment" in differing else None,
            reason=why or None,
            effect="nothing was changed",
            hint=f"{hint}; or {ANOTHER}" if hint else ANOTHER,
        )
    if "data" in saved and (changes := Contents.from_json(saved["data"]).changes(data)):
        raise CheckpointError(
            f"{folder} holds a run that trained on other data than the cache holds now",
            found="; ".join(changes),
            effect="nothing was changed",
            hint="choose another --out folder to train on what there is now, or name the cache as it was with --cache",
        )
    return told(changed)


def different(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The entries of nested groups that differ, under dotted names: the saved value, and the present one."""
    a, b = flat(saved), flat(now)
    return {name: (a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)}


def told(changed: Mapping[str, tuple[Any, Any]], says: tuple[str, str] = ("run has", "asked for")) -> str:
    """Differences as text; empty if there are none."""
    return "; ".join(f"{name}: {says[0]} {a}, {says[1]} {b}" for name, (a, b) in changed.items())
