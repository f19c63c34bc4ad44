"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..watch import Line
from .contract import missing, scalars

if TYPE_CHECKING:
    from ..state import Run


class EventFile:
    """Event files beside metrics.jsonl. Steps that a resumed run repeats replace the earlier ones."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing("tensorboard", "TensorBoard") from None
        self.writer = SummaryWriter(str(run.folder), purge_step=run.step + 1)

    def __call__(self, line: Line) -> None:
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()
