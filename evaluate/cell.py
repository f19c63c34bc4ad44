"""One cell of an ablation, as a process: train, score, write result.json last.

    python -m stvg.evaluate.cell FOLDER DEVICE

FOLDER holds cell.json. Repeated, it goes on where it stopped.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from ..cache.atomic import write_atomic
from ..cache.errors import StvgError, WriteError
from ..cache.index import Cache
from ..cache.objects import location
from ..cache.outputs import naming_write_errors
from ..heads.experiment import load_experiment
from ..heads.run import Run
from ..heads.train import train
from .evaluation import load_head, open_split, overall, score_split, tubes_of


def run(folder: Path, device: torch.device) -> None:
    """Train what cell.json says and score it; the wall time counts this process alone, not what ran before a kill."""
    job = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    cache = Cache.open(location(job["cache"]))
    state = Run(folder / "run", cache, load_experiment(job["preset"], job["settings"]), job["split"], device)
    state.resume()
    first, start = state.step, time.perf_counter()
    checkpoint = train(state)
    seconds = time.perf_counter() - start
    head = load_head(checkpoint, device)
    data = open_split(head, cache, job["test_split"])
    scores = score_split(data, tubes_of(head.model, data, head.batch_size, device), job["protocol"])
    write_atomic(folder / "scores.json", json.dumps(scores.to_json(), indent=1) + "\n")
    result = {
        **overall(scores),
        "scored": scores.scored,
        "missing": len(scores.missing),
        "parameters": sum(p.numel() for p in state.model.head.parameters()),
        "seconds": seconds * state.total_steps / max(1, state.total_steps - first),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_atomic(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        with naming_write_errors(sys.argv[1]):
            run(Path(sys.argv[1]), torch.device(sys.argv[2]))
    except WriteError as error:
        raise SystemExit(f"WriteError: {error.message}: {error.facts['found']}") from None
    except StvgError as error:
        raise SystemExit(f"{type(error).__name__}: {error.message}") from None
