"""The two ranks of the tests of `test_ranks`: each trains with one more term, then says which samples it had and what it
holds, and what it says when the second rank's features are no numbers.

    python tests/heads/rank.py CACHE FOLDER [--fail] SETTING...

With ``--fail`` the second rank meets an error in its third step. The ranks have the environment that torchrun gives them.
They are forked from this process, which has its imports loaded, hosts the store, and computes nothing itself.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # what an optimizer loads on its way, loaded here once
import torch.distributed.nn.functional

from stvg.cache.index import Cache
from stvg.errors import CacheError, StvgError, TrainingDiverged
from stvg.heads.fsm.losses import TERMS
from stvg.heads.losses import MeanOver, Term
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import step, train
from stvg.heads.training.ranks import joined
from stvg.heads.training.state import Run

WIDTH = Term(lambda m: m.tube(m.layers.boxes)[:, *m.targets.slots, 2].mean(-1), lambda config: 0.1, MeanOver.SLOTS)
"""A term that is not of the product."""


def main(cache: Path, folder: Path, settings: list[str]) -> None:
    fails = "--fail" in settings
    TERMS["width"] = WIDTH
    experiment = load_experiment("tiny", [s for s in settings if s != "--fail"])
    with joined(torch.device("cpu")) as (ranks, device):
        run = Run(folder, Cache.open(cache), experiment, "train", device, ranks=ranks)
        seen: list[tuple[int, list[int]]] = []

        def look(_: object, arguments: tuple[object, ...]) -> None:
            seen.append((run.step, [s.sample_id for s in arguments[0].samples]))
            if run.step == 2 and ranks.index == 1 and fails:
                raise CacheError("chunk 7 is damaged")

        hook = run.model.register_forward_pre_hook(look)
        train(run)
        hook.remove()
        said = {"seen": seen, "digest": run.digest(), "drawn": torch.rand(1).item(), "diverged": poisoned(run)}
    said["threads"] = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    (folder / f"rank{ranks.index}.json").write_text(json.dumps(said))


def poisoned(run: Run) -> str:
    """What a step says in which the second rank's features are no numbers."""
    mine = [2 * run.ranks.index, 2 * run.ranks.index + 1]
    batch = run.dataset.collate([run.dataset[p] for p in mine])
    if run.ranks.index == 1:
        batch = replace(batch, inputs=replace(batch.inputs, maps=batch.inputs.maps * torch.nan))
    try:
        step(run, [batch])
    except TrainingDiverged as error:
        return str(error)
    return ""


def become_ranks(count: int) -> None:
    """Fork the ranks. Returns in each of them; this process exits with 1 if one of them failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    team = []
    for rank in map(str, range(count)):
        if not (pid := os.fork()):
            elastic = {"TORCHELASTIC_RUN_ID": "forked", "TORCHELASTIC_USE_AGENT_STORE": "True"}
            os.environ.update(elastic | place | {"RANK": rank, "LOCAL_RANK": rank})
            return
        team.append(pid)
    store = torch.distributed.TCPStore(
        place["MASTER_ADDR"], int(place["MASTER_PORT"]), None, True, wait_for_workers=False
    )
    failed = [os.waitpid(pid, 0)[1] for pid in team]
    del store
    raise SystemExit(int(any(failed)))


if __name__ == "__main__":
    become_ranks(2)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except StvgError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
