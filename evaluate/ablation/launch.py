"""Running the cells of an ablation: each a process of its own, several at a time, on this machine or a Ray cluster."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from subprocess import DEVNULL, PIPE, Popen

import torch

from ...atomic import write_atomic
from ...cluster import connect
from .plan import Cell

Report = Callable[[Cell, str | None], None]
"""Told of every cell that ended, with the last words of one that failed."""


def run_cells(cells: Sequence[Cell], devices: Sequence[str], report: Report) -> list[Cell]:
    """Run what is not finished, one cell a device at a time; returns the cells that failed.

    ``devices``: a name may stand there several times; cells on a CPU share the threads that this process may use. When
    one fails, the others go on.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))

    def work(cell: Cell) -> str | None:
        device = free.get()
        try:
            return run_cell(cell, device, threads, running)
        finally:
            free.put(device)

    failed = []
    running: set[Popen[str]] = set()
    todo = [cell for cell in cells if cell.result is None]
    with ThreadPoolExecutor(len(devices), thread_name_prefix="cell") as pool, ending(running):
        for cell, error in zip(todo, pool.map(work, todo), strict=True):
            report(cell, error)
            if error is not None:
                failed.append(cell)
    return failed


@contextmanager
def ending(running: set[Popen[str]]) -> Iterator[None]:
    """Whoever leaves early, such as by an interrupt, asks the running cells to save and end."""
    try:
        yield
    except BaseException:
        for process in tuple(running):
            process.terminate()
        raise


def run_cell(cell: Cell, device: str, threads: int, running: set[Popen[str]] | None = None) -> str | None:
    """Train and score a cell in a process of its own, added to ``running``; None, or what it said when it failed."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(cell.folder / "cell.json", json.dumps(cell.job(), indent=1) + "\n")
    words = [sys.executable, "-m", "stvg.evaluate.ablation.cell", str(cell.folder), device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with Popen(words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:
        if running is not None:
            running.add(process)
        out, err = process.communicate()
    write_atomic(cell.folder / "log.txt", out + err)
    return None if process.returncode == 0 else (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]


def run_on_ray(cells: Sequence[Cell], gpu: bool, report: Report) -> list[Cell]:
    """As `run_cells`, a Ray task for each cell: with a GPU of its own, or its share of the cluster's processors.

    stvg must be installed, and the caches, weights, videos and the plan's folder be at the same place, on every machine. A
    cell whose worker dies is started again, and goes on from its last checkpoint.
    """
    todo = [cell for cell in cells if cell.result is None]
    if not todo:
        return []
    ray = connect()
    threads = 1 if gpu else max(1, int(ray.cluster_resources().get("CPU", 1)) // len(todo))
    task = ray.remote(_run_at).options(num_cpus=threads, num_gpus=int(gpu), max_retries=3)
    device = "cuda" if gpu else "cpu"
    pending = {task.remote(os.getcwd(), cell, device, threads): cell for cell in todo}
    failed = []
    while pending:
        (done,), _ = ray.wait(list(pending))
        cell = pending.pop(done)
        try:
            error = ray.get(done)
        except ray.exceptions.RayError as gone:
            error = str(gone).splitlines()[0]
        report(cell, error)
        if error is not None:
            failed.append(cell)
    return failed


def _run_at(folder: str, cell: Cell, device: str, threads: int) -> str | None:
    os.chdir(folder)  # relative paths mean what they meant to the user
    return run_cell(cell, device, threads)
