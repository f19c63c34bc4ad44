"""The training loop: reads cached features, writes checkpoints and metrics.

Order, crops and dropout are functions of the seed and the step. All other state is in the checkpoint. On a CPU a
resumed run therefore gives the weights of an uninterrupted one bit for bit.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic as deterministic
from torch import Tensor, nn
from torch.profiler import record_function

from ...atomic import sweep
from ...cache.batches.batch import Batch
from ...cache.batches.order import epoch_order, share_of, training_batches
from ...errors import TrainingDiverged
from ...precision import float32_products
from ...stop import Interrupted, Stop
from ..cpu import hold_memory, return_memory
from ..fsm.losses import TERMS, LossConfig, mrcl_floor
from ..model import Grounder
from ..precision import half_precision
from .ahead import copied_ahead
from .gradients import SharedGradients
from .profiling import Profile
from .ranks import Share
from .schedule import learning_rate
from .state import Run
from .trackers.table import tracked
from .watch import SELECTED, Meter, MetricsFile, Watch, Write

FILL = "fill_uninitialized_memory"
"""torch sets this attribute of its module at run time, so type checkers do not know it."""

Validate = Callable[[Grounder], dict[str, float]]
"""Scores of a model; the entry ``m_vIoU`` determines the best checkpoint."""
Terms = dict[str, Tensor]


def train(
    run: Run,
    validate: Validate | None = None,
    report: Write | None = None,
    track: Sequence[str] = (),
    profile: Profile | None = None,
) -> Path:
    """Train for the configured epochs. Returns the checkpoint to evaluate, ``best.safetensors``: the weights with the
    best validation score, or the last ones without validation.

    ``report``, and the trackers named in ``track`` (see `TRACKERS`), receive every line of metrics.jsonl. Raises
    TrainingDiverged where a loss or a gradient is not finite, and Interrupted after SIGINT or SIGTERM. Both leave a
    checkpoint from which the run resumes.
    """
    best = run.folder / "best.safetensors"
    if run.step > run.total_steps:  # trained for longer before; steps are not undone
        return best
    run.folder.mkdir(parents=True, exist_ok=True)
    run.model.train()
    if run.device.type == "cpu" and run.encoders is None:
        hold_memory()
    tf32 = run.experiment.train.amp == "tf32"
    with (
        Stop() as stop,
        repeatable(run.device),
        float32_products(tf32),
        profile.running() if profile else nullcontext(),
        tracked(run, track if run.ranks.first else ()) as trackers,
    ):
        lines: list[Write] = [*writers(run), *trackers, *([report] if report and run.ranks.first else [])]
        train_epochs(run, Watch(Meter(run.device), lines, profile), stop, validate)
    if not run.total_steps:
        run.save()
    if validate is None or not best.exists():
        run.save("best")  # no validation: the last weights
    run.ranks.gather(None)  # barrier: the first rank may still write a file that the others read
    return best


def writers(run: Run) -> list[Write]:
    """The writers of this rank's lines: metrics.jsonl on the first rank, without lines beyond the run's step."""
    if not run.ranks.first:
        return []
    sweep(run.folder)
    return [MetricsFile(run.folder / "metrics.jsonl", run.step)]


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU, deterministic algorithms: gradients are added in a fixed order. By default the order, and so the last
    bits, vary."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = getattr(deterministic, FILL)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        setattr(deterministic, FILL, False)  # filling is not needed: no uninitialised memory is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        setattr(deterministic, FILL, fill)


def train_epochs(run: Run, watch: Watch, stop: Stop, validate: Validate | None) -> None:
    """The remaining epochs of a run, with a checkpoint after every epoch."""
    if validate and validation_due(run):  # the run was interrupted before it
        keep_best(run, watch, stop, validate)
        run.save()
    while run.step < run.total_steps:
        train_epoch(run, watch, stop)
        if run.ranks.count > 1:
            run.ranks.require_equal(run.digest(), run.step)
        if validate and validation_due(run):
            keep_best(run, watch, stop, validate)
        run.save()


def validation_due(run: Run) -> bool:
    """Whether the run is at the end of an epoch whose weights must be validated, and are not yet."""
    epoch, inside = divmod(run.step, run.steps_per_epoch)
    every = run.experiment.train.eval_every
    wanted = run.step == run.total_steps or (every > 0 and epoch % every == 0)
    return wanted and not inside and run.step > run.validated


def keep_best(run: Run, watch: Watch, stop: Stop, validate: Validate) -> None:
    """Validate the averaged weights, and save them if they are the best. After an interrupt the resumed run does it."""
    try:
        with stop.at_once():
            scores = validate(run.ema.model)
    except Interrupted:
        run.save()
        raise
    run.validated = run.step
    where = {} if run.held_out is None else {"split": run.held_out.split, SELECTED: True}
    watch.write({"step": run.step, "epoch": run.step // run.steps_per_epoch, "validation": scores, **where})
    if scores["m_vIoU"] > run.best:
        run.best = scores["m_vIoU"]
        run.save("best", selected=True)


def train_epoch(run: Run, watch: Watch, stop: Stop) -> None:
    """The remaining steps of the current epoch. After a signal it finishes the step, saves and raises Interrupted."""
    t, ranks = run.experiment.train, run.ranks
    epoch, done = divmod(run.step, run.steps_per_epoch)
    watch.meter.restart()
    with watch.meter.waiting():
        order = epoch_order(run.dataset, t.batch_size, t.per_video, t.seed, epoch, t.temporal_crop)
        order = order[done * t.accumulate :]
        share = share_of(order, ranks.index, ranks.count)
        read = training_batches(run.dataset, share, t.seed, epoch, 0, t.temporal_crop, t.views, run.device)
        batches = copied_ahead(read, run.device)
    while group := watch.wait_for(batches, t.accumulate):
        terms = step(run, group)
        samples, order = sum(map(len, order[: len(group)])), order[len(group) :]
        watch.stepped(samples)
        if run.device.type == "cpu" and run.encoders is not None:
            return_memory()
        if run.step % t.log_every == 0 or run.step == run.total_steps:
            watch.write(line(run, terms), speed=True)
        ends = ranks.any(stop.signal > 0)
        if ends or run.step % t.save_every == 0:
            run.save()
        if ends:
            raise Interrupted(stop.signal or signal.SIGTERM)


def line(run: Run, terms: Terms) -> dict[str, Any]:
    """The metrics of one step. ``loss``: the sum of the terms. ``mrcl_above_floor``: MRCL minus its minimum, log Δ."""
    losses = run.ranks.total({k: v.item() for k, v in terms.items()})
    floor = losses.pop("mrcl_floor", None)
    above = {} if floor is None else {"mrcl_above_floor": losses["mrcl"] - floor}
    rates = {"lr" if g["name"] == "head" else f"lr_{g['name']}": g["lr"] for g in run.optimizer.param_groups}
    return {"step": run.step, "loss": sum(losses.values()), **losses, **above, **rates}


def step(run: Run, group: Sequence[Batch | None]) -> Terms:
    """One optimiser step over a group of accumulated batches; returns the mean of their weighted loss terms, detached.

    A batch is None where this rank has no sample of it. All work is queued on a GPU, and the CPU synchronises with it
    once: to check that the loss is finite.
    """
    t, seen = run.experiment.train, []
    for rates in run.optimizer.param_groups:
        rates["lr"] = learning_rate(t, run.step, run.total_steps, run.steps_per_epoch, rates["name"])
    seed = np.random.SeedSequence([t.seed, run.step, run.ranks.index])
    torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))  # seeded by the run's seed, the step and the rank
    run.optimizer.zero_grad(set_to_none=True)
    gradients = SharedGradients(run.ranks, [p for p in run.model.parameters() if p.requires_grad])
    loss = torch.zeros((), device=run.device)
    mine = [(batch, share) for batch, share in zip(group, run.ranks.shares(group), strict=True) if batch is not None]
    for number, (given, share) in enumerate(mine, 1):
        batch = given.to(run.device)
        with record_function("forward"), half_precision(t.amp, run.device):
            output = run.model(batch)
        with record_function("losses"):
            assert batch.targets is not None
            terms = share.criterion(run.criterion)(output, batch.targets, batch.inputs.frame_padding)
            total = torch.stack(list(terms.values())).sum() / len(group)
        with record_function("backward"), gradients.added() if number == len(mine) else nullcontext():
            total.backward()
        loss += total.detach()
        seen.append((logged(run, terms, batch, share), batch))
    with record_function("optimiser"):
        loss = gradients.sum(loss)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), t.clip)
        guard(run, loss, norm, seen)
        run.optimizer.step()
        run.ema.update(run.model)
        run.step += 1
    names = dict.fromkeys(name for terms, _ in seen for name in terms)
    return {k: torch.stack([terms[k] for terms, _ in seen if k in terms]).sum() / len(group) for k in names}


def logged(run: Run, terms: Terms, batch: Batch, share: Share) -> Terms:
    """A batch's terms, detached. ``mrcl_floor`` is not part of the objective."""
    found, config = {k: v.detach() for k, v in terms.items()}, run.criterion.config
    contrasted = "mrcl" in terms and terms["mrcl"].requires_grad
    if contrasted and isinstance(config, LossConfig) and config.mrcl_form == "paper":
        assert batch.targets is not None
        floor = config.mrcl * mrcl_floor(batch.targets.in_moment)
        found["mrcl_floor"] = share.part(floor, TERMS["mrcl"].mean_over)
    return found


def guard(run: Run, loss: Tensor, norm: Tensor, seen: Sequence[tuple[Terms, Batch]]) -> None:
    """Raises TrainingDiverged, before the weights change, where the loss or the gradient norm is not finite.

    The error names the step, the terms, and the samples of every batch with a loss that is not finite, over all ranks;
    where there is none, the samples of the whole step. Weights that are all finite are saved.
    """
    if bool(loss.isfinite() & norm.isfinite()):
        return
    here = [({k: float(v) for k, v in terms.items()}, [s.sample_id for s in batch.samples]) for terms, batch in seen]
    found = [(rank, *of_batch) for rank, part in enumerate(run.ranks.gather(here)) for of_batch in part]
    culprits = [f for f in found if not np.isfinite(list(f[1].values())).all()] or found
    if all(bool(p.isfinite().all()) for p in run.model.parameters()):
        run.save()
    who = ["" if run.ranks.count == 1 else f"rank {rank}: " for rank, _, _ in culprits]
    raise TrainingDiverged(
        f"the loss is not a finite number at step {run.step + 1}",
        terms=", ".join(f"{k} {v:.4g}" for k, v in {**culprits[0][1], "gradient norm": float(norm)}.items()),
        samples="; ".join(w + ", ".join(map(str, ids)) for w, (_, _, ids) in zip(who, culprits, strict=True)),
        effect=f"this step was not taken; {run.folder} keeps the last weights that were numbers",
        hint="a lower --set train.lr, or train.amp=none",
    )
