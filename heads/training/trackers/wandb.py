"""Weights & Biases: offline by default, see WANDB_MODE. ``wandb sync runs/fsm/wandb/offline-run-*`` uploads a run."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from ..watch import Line
from .contract import keep_id, known_id, missing, scalars, settings_of

if TYPE_CHECKING:
    from ..state import Run

DEFAULTS = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_PROJECT": "stvg"}
"""Defaults of Weights & Biases' environment variables."""


class WandbRun:
    """A run of Weights & Biases in the folder ``wandb`` of the run's folder. A resumed run keeps its id."""

    def __init__(self, run: Run) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            import wandb
        except ImportError:
            raise missing("wandb", "Weights & Biases") from None
        name = known_id(run.folder, "wandb") or secrets.token_hex(4)
        self.run = wandb.init(
            id=name,
            name=run.folder.resolve().name,
            dir=str(run.folder),
            config=settings_of(run),
            resume="allow",
            settings=wandb.Settings(console="off"),
        )
        keep_id(run.folder, "wandb", name)

    def __call__(self, line: Line) -> None:
        self.run.log(scalars(line), step=line["step"])

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
