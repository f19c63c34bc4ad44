"""STCAT's schedules, recorded and ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvg.heads.settings import TrainConfig
from stvg.heads.training.schedule import learning_rate, warm_up

from .recorded import described

OURS = {"rest": "head", "visual": "backbone", "text": "text", "temporal_decoder": "late"}
SETTINGS = {"multistep_with_warmup_all": ("stepped", 8), "multistep_with_warmup": ("linear-late", 50)}


def test_every_group_has_the_recorded_rate_but_warms_up_one_step_earlier(shared: Path) -> None:
    """Recorded is what is set after a step, and used by the next; there the first step runs at the full rate."""
    compared = 0
    for case in described(shared / "golden")["schedules"]:
        name, drop = SETTINGS[case["type"]]
        config = TrainConfig(schedule=name, lr=1.0, lr_backbone=1.0, lr_text=1.0, epochs=case["epochs"], lr_drop=drop)
        total = case["total_steps"]
        per_epoch, warm = round(total / case["epochs"]), warm_up(config, total)
        assert case["drop_epochs"] == [drop, case["epochs"]]
        for row in case["rows"]:
            recorded = dict(zip(case["columns"], row, strict=True))
            done = recorded.pop("step")
            if done >= per_epoch * case["epochs"]:
                continue  # beyond the last epoch
            for group, expected in recorded.items():
                warming = done < warm and expected < 1
                ours = learning_rate(config, done - 1 if warming else done, total, per_epoch, OURS[group])
                assert ours == pytest.approx(expected, rel=1e-12), (case["name"], done, group)
                compared += 1
    assert compared > 100
