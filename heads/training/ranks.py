"""One run on several processes, started by torchrun: who has which samples, and how what they compute is added up.

Every global batch is divided between the ranks, and a rank's loss counts by its share of what each term is a mean over: the
sum of the ranks' gradients is the gradient of one process with the whole batch; see `gradients` for how they travel.
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
"""How long a rank waits for the others, who may be writing a checkpoint or scoring what is theirs to score."""
CPU = torch.device("cpu")
FAILED = "failed"


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which of them this is. Alone, everything here costs nothing."""

    index: int = 0
    count: int = 1
    device: torch.device = CPU
    """Where what the ranks tell each other lies."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.index == 0

    def gather(self, item: Any) -> list[Any]:
        """One picklable thing of every rank, in their order."""
        found = [item] * self.count
        if self.count > 1:
            with together():
                dist.all_gather_object(found, item)
        return found

    def total(self, terms: dict[str, float]) -> dict[str, float]:
        """The sum over ranks of every term; a rank without samples has none."""
        found = self.gather(terms)
        names = dict.fromkeys(name for part in found for name in part)
        return {name: sum(part.get(name, 0.0) for part in found) for name in names}

    def shares(self, group: Sequence[Batch | None]) -> list[Share]:
        """What part of every global batch this rank's batch is. None: it has none of it."""
        if self.count == 1:
            return [WHOLE] * len(group)
        here = [counts(None if batch is None else batch.targets) for batch in group]
        mine = torch.tensor(here, device=self.device)  # (batches, 2)
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        with together():
            dist.all_gather(everyone, mine)
        return [Share(of) for of in mine / torch.stack(everyone).sum(0)]

    def any(self, here: bool) -> bool:
        """Whether something is so on at least one rank."""
        if self.count == 1:
            return here
        found = torch.tensor(float(here), device=self.device)
        with together():
            dist.all_reduce(found)
        return bool(found)

    def require_equal(self, digest: int, step: int) -> None:
        """Raises StvgError when the ranks' weights are not the same, which only a fault of the machine can bring about."""
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
    """What part of a global batch a rank has, of everything that is a `MeanOver`; None for all of it."""

    of: Tensor | None

    def part(self, value: Tensor, mean_over: MeanOver) -> Tensor:
        """A mean over this rank's samples as its contribution to that of the global batch."""
        return value if self.of is None else value * self.of[mean_over]

    def criterion(self, criterion: Criterion) -> Criterion:
        """A criterion whose terms add up, over the ranks, to those of the global batch."""
        return criterion if self.of is None else Weighted(criterion, self)


WHOLE = Share(None)


class Weighted(Criterion):
    """A criterion that weighs every term by a share, earlier layers' before they are added up."""

    def __init__(self, criterion: Criterion, share: Share) -> None:
        super().__init__(criterion.config)
        self.share = share

    def weigh(self, term: Term, value: Tensor) -> Tensor:
        return self.share.part(super().weigh(term, value), term.mean_over)


class Lost(Exception):
    """Another rank ended while this one waited for it."""


@contextmanager
def together() -> Iterator[None]:
    """Around what all ranks do together. Raises Lost when one does not."""
    try:
        yield
    except RuntimeError as error:  # each backend has its own text
        raise Lost(str(error)) from error


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """This process as one of those torchrun started, and its device; alone without torchrun.

    When one rank fails, the others end too, and say which it was.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE, device
        return
    # Loaded by torch's optimisers otherwise, when its functions' defaults would hold on to the group that is there by then,
    # and with it to threads that outlive Python: at the end, a rank in some ten would abort.
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
        raise SystemExit(128 + stop.signal) from None  # one rank says it
    except Exception as error:
        said = told(error, ranks, dist.PrefixStore("run", store))
        if said is error:
            raise
        raise said from None
    finally:
        dist.destroy_process_group()


def device_of_rank(device: torch.device) -> torch.device:
    """One GPU for every rank of a machine; they share its CPU."""
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
    """What this rank says at its end: its own error with its number, or, where it only lost the others, whose it was."""
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
        return error if first else SystemExit(1)  # several ranks met the same, and one of them says it
    return error
