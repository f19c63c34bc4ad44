"""MLflow: files in ``mlruns`` beside the run's folder, unless MLFLOW_TRACKING_URI names a server or another store."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ..watch import Line
from .contract import keep_id, known_id, missing, scalars, settings_of

if TYPE_CHECKING:
    from ..state import Run

EXPERIMENT = "stvg"
LONGEST = 500
"""Maximum length of a parameter's value that every store accepts."""


class MlflowRun:
    """A run of MLflow's experiment ``stvg`` (or MLFLOW_EXPERIMENT_NAME). A resumed run continues the same MLflow
    run."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        store = os.environ.get("MLFLOW_TRACKING_URI")
        if not store:
            store = (run.folder.resolve().parent / "mlruns").as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise missing("mlflow", "MLflow") from None
        self.client = MlflowClient(tracking_uri=store)
        name = known_id(run.folder, "mlflow")
        self.id = name or self.begin(run)
        self.client.update_run(self.id, status="RUNNING")
        keep_id(run.folder, "mlflow", self.id)

    def begin(self, run: Run) -> str:
        """Create a run with its parameters; returns its id."""
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self.client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self.client.create_experiment(name)
        created: str = self.client.create_run(where, run_name=run.folder.resolve().name).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in settings_of(run).items()]
        self.client.log_batch(created, params=params)
        return created

    def __call__(self, line: Line) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        found: list[Any] = [Metric(key.replace("@", "-"), v, now, line["step"]) for key, v in scalars(line).items()]
        self.client.log_batch(self.id, metrics=found)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")
