"""One cell of an ablation, as a process: train, score, and write result.json last.

    python -m stvg.evaluate.ablation.cell FOLDER DEVICE

FOLDER holds cell.json. A repeated call continues where the last one stopped.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ...atomic import write_atomic
from ...cache.index import Cache
from ...errors import CacheError, CheckpointError, StvgError, WriteError
from ...heads.training.loop import train
from ...heads.training.owner import owned
from ...heads.training.record import Record, go_on
from ...heads.training.request import RunRequest
from ...heads.training.state import Run
from ...objects import location
from ...outputs import naming_write_errors
from ...stop import Interrupted
from ..evaluation import load_head, open_split, overall, score_split, tubes_of, validation
from .plan import amount


def run(folder: Path, device: torch.device) -> None:
    """Train and score what cell.json says. The training time is measured in this process only, and scaled to all steps.

    Raises CacheError if the cache no longer holds the data of the table, CheckpointError if its start weights changed,
    and UsageError if another process owns the folder.
    """
    job = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    request = replace(RunRequest.from_json(job["request"], str(folder / "cell.json")), device=str(device))
    cache = Cache.open(location(request.cache), request.annotation_set)
    state = request.run(folder / "run", cache, device)
    if state.start is not None:
        print(state.start)  # kept as log.txt
    require_start(state, job)
    validate = None
    if request.val_split != "none":
        held_out = state.open_validation(request.val_split)
        validate = validation(held_out, request.experiment.train.batch_size, device, request.protocol)
    go_on(state, Record.of(request, state), None, print)
    first, start = state.step, time.perf_counter()
    require_data(cache, request, job)
    checkpoint = train(state, validate)
    seconds = time.perf_counter() - start
    head = load_head(checkpoint, device, request.sources)
    data = open_split(head, cache, job["test_split"], state.videos)
    require_data(cache, request, job)
    scores = score_split(data, tubes_of(head.model, data, head.batch_size, device), request.protocol)
    write_atomic(folder / "scores.json", json.dumps(scores.to_json(), indent=1) + "\n")
    result = {
        **overall(scores),
        "scored": scores.scored,
        "missing": len(scores.missing),
        "annotations": job["annotations"],
        "data": job["data"],
        "mode": request.experiment.train.mode,
        "start": state.start and {**asdict(state.start), "says": str(state.start)},
        "selected_on": head.selected_on and head.selected_on[1],
        "samples": len(state.dataset),
        "parameters": sum(p.numel() for p in state.model.head.parameters()),
        "seconds": seconds * state.total_steps / max(1, state.total_steps - first),
        "memory_bytes": peak_bytes(device),
    }
    write_atomic(folder / "result.json", json.dumps(result, indent=1) + "\n")


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def require_start(state: Run, job: dict[str, Any]) -> None:
    """Raise CheckpointError if the weights that a head starts from changed after the table began."""
    found = None if state.start is None else state.start.sha256
    if found != job["started_from"]:
        raise CheckpointError(
            f"{job['request']['init']} changed while the table was made: other weights than it began with"
        )


def require_data(cache: Cache, request: RunRequest, job: dict[str, Any]) -> None:
    """Raise CacheError if a cache changed after the table began: its rows would be trained on different data."""
    for part, split in (("train", request.split), ("test", job["test_split"])):
        found, planned = request.contents(cache, split), job["data"][part]
        if found.digest != planned["digest"]:
            now = amount({"samples": found.samples, "videos": len(found.videos)})
            raise CacheError(f"{cache.path} changed while the table was made: {split} had {amount(planned)}, now {now}")


def end_with_parent() -> None:
    """On Linux: kill this process when the ablation dies, so that the ablation can be repeated at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    end_with_parent()
    try:
        with owned(Path(sys.argv[1])), naming_write_errors(sys.argv[1]):
            run(Path(sys.argv[1]), torch.device(sys.argv[2]))
    except WriteError as error:
        raise SystemExit(f"WriteError: {error.message}: {error.facts['found']}") from None
    except StvgError as error:
        raise SystemExit(f"{type(error).__name__}: {error.message}") from None
    except Interrupted as stop:
        raise SystemExit(128 + stop.signal) from None
