"""The learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..settings import TrainConfig

EVERY = frozenset({"head", "late", "backbone", "text"})
"""Parameter groups. ``late``: the part of a head that has its own schedule in the published code, if any."""


@dataclass(frozen=True)
class Schedule:
    """The groups that warm up, and those that decay linearly to zero after the warm-up. The others decay in steps."""

    warmed: frozenset[str]
    linear: frozenset[str]


SCHEDULES = {
    "linear-text": Schedule(frozenset({"text"}), frozenset({"text"})),
    "stepped": Schedule(EVERY, frozenset()),
    "linear-late": Schedule(frozenset({"text", "late"}), frozenset({"text", "late"})),
}
"""``linear-text``: FSM's and TubeDETR's; head and backbone start at their full rates. ``stepped``: STCAT's for VidSTG.
``linear-late``: STCAT's for HC-STVG."""


def steps_of(samples: int, config: TrainConfig) -> tuple[int, int]:
    """Optimiser steps of an epoch over ``samples`` samples, and of the whole run."""
    batches = math.ceil(samples / config.batch_size)
    of_epoch = math.ceil(batches / max(1, config.accumulate))
    return of_epoch, of_epoch * config.epochs


def learning_rate(config: TrainConfig, step: int, total_steps: int, steps_per_epoch: int, group: str = "head") -> float:
    """The learning rate of a step in 0…total_steps-1, by the group's entry in `SCHEDULES`: a linear warm-up or none,
    then a division by ten every ``lr_drop`` epochs, or a linear decay to zero."""
    schedule = SCHEDULES[config.schedule]
    warm = warm_up(config, total_steps)
    rate = {"head": config.lr, "late": config.lr, "backbone": config.lr_backbone, "text": config.lr_text}[group]
    grown = min(1.0, (step + 1) / warm) if group in schedule.warmed else 1.0
    if group in schedule.linear:
        return rate * min(grown, (total_steps - step) / max(1, total_steps - warm))
    return rate * grown * 0.1 ** (step // steps_per_epoch // config.lr_drop)


def warm_up(config: TrainConfig, total_steps: int) -> int:
    """Number of warm-up steps, at least 1."""
    return max(1, round(config.warmup * total_steps))
