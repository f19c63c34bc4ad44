"""The learning rate of every step."""

from __future__ import annotations

from ..experiment import TrainConfig


def learning_rate(config: TrainConfig, step: int, total_steps: int, steps_per_epoch: int, group: str = "head") -> float:
    """Linear warm-up over the first share of all steps; then a division by ten every ``lr_drop`` epochs.

    The text encoder's rate falls linearly to zero instead, as in the baseline.
    """
    warm = warm_up(config, total_steps)
    rate = {"head": config.lr, "backbone": config.lr_backbone, "text": config.lr_text}[group]
    if group == "text":
        left = (total_steps - step) / max(1, total_steps - warm)
        return rate * min((step + 1) / warm, left, 1.0)
    return rate * min(1.0, (step + 1) / warm) * 0.1 ** (step // steps_per_epoch // config.lr_drop)


def warm_up(config: TrainConfig, total_steps: int) -> int:
    """Steps until the rate is whole."""
    return max(1, round(config.warmup * total_steps))
