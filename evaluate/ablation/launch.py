"""Run the cells of an ablation: each in its own process, several at a time, on this machine or a Ray cluster."""

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
"""Called for every cell that ended, with the error message if it failed."""


def run_cells(cells: Sequence[Cell], devices: Sequence[str], report: Report) -> list[Cell]:
    """Run the unfinished cells, one at a time per device. Returns the cells that failed.

    ``devices``: a name may occur several times. Cells on a CPU share the threads of this process. If one cell fails,
    the others continue.
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
    """On an exception, such as an interrupt: request a graceful stop of the running cells. They save and exit."""
    try:
        yield
    except BaseException:
        for process in tuple(running):
            process.terminate()
        raise


def run_cell(cell: Cell, device: str, threads: int, running: set[Popen[str]] | None = None) -> str | None:
    """Train and score a cell in its own process, which is added to ``running``.

    Returns None, or the last line of the error output if the cell failed.
    """
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
    """Like `run_cells`, with one Ray task per cell. A task has its own GPU, or its share of the cluster's processors.

    On every machine, stvg must be installed, and caches, weights, videos and the plan's folder must have the same
    paths. A cell whose worker dies is restarted and continues from its last checkpoint.
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
    os.chdir(folder)  # relative paths start at the folder of the user's command
    return run_cell(cell, device, threads)
