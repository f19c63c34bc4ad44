"""The progress output of `stvg train-head`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...console import Progress
from ..model import Grounder
from .loop import Validate
from .state import Run
from .watch import SPEED


class TrainingProgress:
    """Shows steps, loss and its terms, and speed. Validation scores are printed on a line of their own."""

    def __init__(self, bar: Progress, run: Run) -> None:
        self.bar, self.run = bar, run
        bar.total, bar.done, bar.first, bar.doing = run.total_steps, run.step, run.step, ""
        bar.look = self.look

    def look(self) -> Sequence[str]:
        """Update the step count, also between two lines of metrics.jsonl."""
        self.bar.done = self.run.step
        return self.bar.terms

    def __call__(self, line: dict[str, Any]) -> None:
        if "loss" in line:
            shown = [k for k in line if k not in ("step", "loss", "lr", *SPEED) and not k.startswith("lr_")]
            self.bar.limit = "read" if line["wait"] > 0.5 else "compute"
            self.bar.terms = [
                f"loss {line['loss']:.2f}",
                f"{line['samples_per_second']:.3g} samples/s",
                f"waiting {line['wait']:.0%}",
                f"lr {line['lr']:.1e}",
                *(f"{k} {line[k]:.2f}" for k in shown),
                f"{line['memory_bytes'] / 1e9:.1f} GB",
            ]
        else:
            scores = "  ".join(f"{k} {100 * v:.2f}" for k, v in line["validation"].items())
            where = f" on {line['split']}, by which the best is selected" if "split" in line else ""
            self.bar.say(f"epoch {line['epoch']}{where}: {scores}")
        self.bar.at(line["step"])

    def while_scoring(self, validate: Validate, split: str) -> Validate:
        """``validate``, with a note in the progress line while it runs."""

        def scored(model: Grounder) -> dict[str, float]:
            self.bar.doing = f"scoring {split}"
            try:
                return validate(model)
            finally:
                self.bar.doing = ""

        return scored


def plan_of(run: Run, val_split: str, out: Path) -> str:
    """The plan of the run: steps, samples, parameters, validation, device, folder."""
    t = run.experiment.train
    if run.step >= run.total_steps > 0:
        return f"nothing is left to train: all {run.total_steps:,} steps are done → {out}"
    left = f"steps {run.step + 1:,} to {run.total_steps:,}" if run.step else f"{run.total_steps:,} steps"
    samples = f"{t.epochs} epochs of {len(run.dataset):,} samples in batches of {t.batch_size * t.accumulate}"
    count = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    scored = f"validation on {val_split}" if val_split != "none" else "no validation, so the best is the last"
    head = f"{run.experiment.model.head}, {count:,} parameters that train"
    return f"training {left} ({samples}); {head}; {scored}; on {run.device} → {out}"
