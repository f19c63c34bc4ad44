"""Extractions and ablations on a Ray cluster of this machine: what they come to in one process, although workers die.

One file, so that one cluster serves them all: it takes longer to start than the work on it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch

from stvg.cluster import connect
from stvg.evaluate.ablation.grid import read_grid
from stvg.evaluate.ablation.plan import cells_of
from stvg.extract.launchers.table import launch

from .evaluate.test_ablation import SMALL, a_plan, train_here
from .extract.test_launchers import job_of
from .extract.test_runner import digests


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """A cluster, which stays with this process, and what all of its processes have in their environment."""
    handler, name = signal.getsignal(signal.SIGTERM), str(tmp_path_factory.mktemp("cluster"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STVG_TEST_CLUSTER", name)
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        ray = connect()
        yield f"STVG_TEST_CLUSTER={name}".encode()
        ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


def workers_of(mark: bytes) -> list[int]:
    """Processes at work on a part of an extraction, of the one cluster that has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            task = folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(b"ray::_attempt_at")
            if task and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def test_ray_writes_the_same_bytes_although_a_worker_is_killed(mark, synthetic, tiny_cache, tmp_path):
    killed = []

    def kill() -> None:
        while not killed:
            if (tmp_path / "c" / "annotations" / "vidstg.json").exists():
                for pid in workers_of(mark)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)

    Thread(target=kill, daemon=True).start()
    report, _ = launch(job_of(synthetic, tmp_path / "c", "roi"), "ray", [torch.device("cpu")], 2)
    assert killed
    assert report.videos <= 8  # those of the worker that died are in the cache, and in no report
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_cells_on_a_ray_cluster_come_to_what_they_come_to_here(mark, stvg, tiny_cache, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("rows:\n- {label: a}\n- {label: bad, set: [train.mode=last-stage]}\n")
    words = ["ablate", "--cache", tiny_cache, "--grid", grid, "--preset", "tiny", "--devices", "cpu"]
    words += [w for s in SMALL for w in ("--set", s)]
    ran = stvg(*words, "--launcher", "ray", "--out", tmp_path / "ray")
    assert ran.code == 1, ran.err
    assert "bad, seed 0, failed: CacheError: " in ran.out
    assert "2 cells, 0 finished before, 1 failed" in ran.out
    (there, bad), (here, _) = (
        cells_of([read_grid(grid)], a_plan(tiny_cache, tmp_path / name)) for name in ("ray", "here")
    )
    assert bad.result is None
    train_here(here)
    measured = ("seconds", "memory_bytes")
    results = [{k: v for k, v in cell.result.items() if k not in measured} for cell in (there, here)]
    assert results[0] == results[1]
