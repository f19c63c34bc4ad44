"""Distributed training on several processes started by torchrun: how samples are divided, and how results are summed.

Every global batch is divided between the ranks. Each term of a rank's loss is weighted by the rank's share of what the
term is averaged over. The sum of the ranks' gradients therefore equals the gradient of one process with the whole
batch. See `gradients` for the all-reduce.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...cache.batches.batch import Batch
from ...errors import StvgError, UsageError
from ...stop import Interrupted
from ..losses import Criterion, MeanOver, Term, counts

PATIENCE = timedelta(hours=2)
"""Timeout of collective operations. Another rank may be writing a checkpoint or scoring its part of a split."""
CPU = torch.device("cpu")
FAILED = "failed"


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and this one's index. With one process, no operation here communicates."""

    index: int = 0
    count: int = 1
    device: torch.device = CPU
    """The device of tensors in collective operations."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.index == 0

    def gather(self, item: Any) -> list[Any]:
        """A picklable object of every rank, in their order."""
        found = [item] * self.count
        if self.count > 1:
            with together():
                dist.all_gather_object(found, item)
        return found

    def total(self, terms: dict[str, float]) -> dict[str, float]:
        """The sum of every term over the ranks; a rank without samples has no terms."""
        found = self.gather(terms)
        names = dict.fromkeys(name for part in found for name in part)
        return {name: sum(part.get(name, 0.0) for part in found) for name in names}

    def shares(self, group: Sequence[Batch | None]) -> list[Share]:
        """This rank's share of every global batch. A batch is None where this rank has no sample of it."""
        if self.count == 1:
            return [WHOLE] * len(group)
        here = [counts(None if batch is None else batch.targets) for batch in group]
        mine = torch.tensor(here, device=self.device)  # (batches, 2)
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        with together():
            dist.all_gather(everyone, mine)
        return [Share(of) for of in mine / torch.stack(everyone).sum(0)]

    def any(self, here: bool) -> bool:
        """Whether ``here`` is true on at least one rank."""
        if self.count == 1:
            return here
        found = torch.tensor(float(here), device=self.device)
        with together():
            dist.all_reduce(found)
        return bool(found)

    def require_equal(self, digest: int, step: int) -> None:
        """Raises StvgError where the ranks' weights differ, which only a hardware fault can cause."""
        found = self.gather(digest)
        if len(set(found)) > 1:
            raise StvgError(
                f"the ranks hold different weights after step {step}",
                found=", ".join(f"rank {i} crc32c {value:08x}" for i, value in enumerate(found)),
                effect="the checkpoint of this step was not written",
                hint="repeat the command to go on from the last checkpoint",
            )


ALONE = Ranks()


@dataclass(frozen=True)
class Share:
    """A rank's share of a global batch, for every `MeanOver`; None for the whole batch."""

    of: Tensor | None

    def part(self, value: Tensor, mean_over: MeanOver) -> Tensor:
        """The contribution of a mean over this rank's samples to the mean over the global batch."""
        return value if self.of is None else value * self.of[mean_over]

    def criterion(self, criterion: Criterion) -> Criterion:
        """A criterion whose terms, summed over the ranks, equal those of the global batch."""
        return criterion if self.of is None else Weighted(criterion, self)


WHOLE = Share(None)


class Weighted(Criterion):
    """A criterion that multiplies every term by the share, for each layer before layers are summed."""

    def __init__(self, criterion: Criterion, share: Share) -> None:
        super().__init__(criterion.config)
        self.share = share

    def weigh(self, term: Term, value: Tensor) -> Tensor:
        return self.share.part(super().weigh(term, value), term.mean_over)


class Lost(Exception):
    """Another rank ended while this one waited for it."""


@contextmanager
def together() -> Iterator[None]:
    """Context of a collective operation. Raises Lost where another rank does not take part."""
    try:
        yield
    except RuntimeError as error:  # the text differs between backends
        raise Lost(str(error)) from error


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the process group of torchrun; gives this process's rank and device. Without torchrun: a single rank.

    When one rank fails, the others end too, and report which one it was.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, device
        return
    # Import this before the group exists. torch's optimisers import it later otherwise, and its default arguments then keep
    # the group and its threads alive beyond Python's shutdown: about one rank in ten aborted at exit.
    import torch.distributed.nn.functional  # noqa: F401

    device = device_of_rank(device)
    store, index, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("collectives", store),
        rank=index,
        world_size=count,
        timeout=PATIENCE,
    )
    ranks = Ranks(index, count, device)
    try:
        yield ranks, device
    except Interrupted as stop:
        if ranks.first:
            raise
        raise SystemExit(128 + stop.signal) from None  # only the first rank reports it
    except Exception as error:
        said = told(error, ranks, dist.PrefixStore("run", store))
        if said is error:
            raise
        raise said from None
    finally:
        dist.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """The device of this rank: one GPU per rank of a machine. On CPUs, ranks share the machine's."""
    if device.type != "cuda":
        return device
    local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= found:
        raise UsageError(
            f"there is no GPU for local rank {local}", found=f"{found} GPUs", hint=f"torchrun --nproc-per-node {found}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def told(error: Exception, ranks: Ranks, store: dist.Store) -> BaseException:
    """The error that this rank raises at its end: its own, with its rank, or, where it only lost the others, the
    failure of the first one."""
    if isinstance(error, Lost):
        failed = store.get(FAILED).decode() if store.check([FAILED]) else ""
        return StvgError(
            f"rank {ranks.index} of {ranks.count} ends, because {failed or 'another rank died without a word'}",
            found=None if failed else str(error).splitlines()[0],
            effect="the last checkpoint stands",
            hint="repeat the command to go on from it",
        )
    own = f"rank {ranks.index} failed: {type(error).__name__}: {getattr(error, 'message', error)}"
    first = store.compare_set(FAILED, "", own).decode() == own
    if isinstance(error, StvgError):
        error.facts["rank"] = f"{ranks.index} of {ranks.count}"
        return error if first else SystemExit(1)  # several ranks failed the same way; only the first reports it
    return error
