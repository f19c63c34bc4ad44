"""The training loop: cached features in, checkpoints and metrics.jsonl out.

Order, crops and dropout are functions of the seed and the step, and everything they depend on is in the checkpoint: a
resumed run on a CPU gives bit for bit the weights of an unbroken one.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.deterministic as deterministic
from torch import Tensor, nn

from ..cache.atomic import write_atomic
from ..cache.batch import Batch
from ..cache.dataset import CachedDataset
from ..cache.errors import CheckpointError, TrainingDiverged
from ..cache.index import Cache
from ..cache.order import epoch_order, training_batches
from ..cache.sampling import Sampling
from .checkpoint import EMA, load_checkpoint, load_into, load_optimizer, optimizer_tensors, save_checkpoint
from .experiment import Experiment, TrainConfig
from .initial import start_from
from .losses import Criterion, mrcl_floor
from .model import FeatureFacts, Grounder, build_model

if TYPE_CHECKING:
    from .finetune import LiveEncoders

log = logging.getLogger(__name__)

FILL = "fill_uninitialized_memory"
"""Torch adds this switch to its module at run time, so type checkers do not know it."""

Validate = Callable[[Grounder], dict[str, float]]
"""Scores of a model; the entry ``m_vIoU`` decides which checkpoint is the best."""
Report = Callable[[dict[str, Any]], None]


def feature_facts(cache: Cache) -> FeatureFacts:
    """What a head for this cache must know."""
    r = cache.recipe
    return FeatureFacts(r.channels, r.strides, r.text_width, r.roi_size)


class Run:
    """Everything that changes while training, and the folder it is kept in."""

    def __init__(
        self,
        folder: Path,
        cache: Cache,
        experiment: Experiment,
        split: str,
        device: torch.device,
        sources: Mapping[str, Any] | None = None,
        init: Path | None = None,
    ) -> None:
        """``sources``: fields of `finetune.Sources`, for modes that train encoders. ``init``: see `start_from`."""
        t = experiment.train
        self.folder, self.cache, self.experiment, self.device = folder, cache, experiment, device
        targets = experiment.model.multiscale if experiment.model.qmm else "none"
        self.encoders: LiveEncoders | None = None
        self.videos: Path | None = None
        if t.mode != "cached":  # the encoders, and what reads video, load only where they are used
            from .finetune import Sources, build_encoders

            chosen = Sources(**(sources or {}))
            self.videos = chosen.videos
            self.encoders = build_encoders(t.mode, cache, targets, chosen)
            self.encoders.set_trained(backbone=t.lr_backbone > 0, text=t.lr_text > 0)
        self.dataset = self.open_split(split, targets)
        head = build_model(experiment.model, feature_facts(cache), t.seed)
        self.start = None if init is None else start_from(head, init)
        self.model = Grounder(head, self.encoders).to(device)
        self.ema = EMA(self.model, t.ema)
        self.optimizer = torch.optim.AdamW(self.parameter_groups(), weight_decay=t.weight_decay, fused=True)
        self.criterion = Criterion(experiment.loss)
        self.recipe = cache.recipe
        batches = math.ceil(len(self.dataset) / t.batch_size)
        self.steps_per_epoch = math.ceil(batches / t.accumulate)
        self.total_steps = self.steps_per_epoch * t.epochs
        self.step = 0
        self.best = -math.inf
        torch.manual_seed(t.seed)

    def open_split(self, split: str, targets: str | None = None) -> CachedDataset:
        """A split as this run's mode reads it; without ``targets`` for inference."""
        sampling = Sampling(self.cache.recipe.fps, self.experiment.model.max_frames)
        if self.encoders is None:
            return CachedDataset(self.cache, split, sampling, targets)
        from .online import open_live_split

        return open_live_split(self.encoders.mode, self.cache, split, sampling, targets, self.videos)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The head's parameters and those of every encoder that trains, each with its own rate."""
        t = self.experiment.train
        groups = [{"name": "head", "params": list(self.model.head.parameters()), "lr": t.lr}]
        rates = {"backbone": t.lr_backbone, "text": t.lr_text}
        live = self.encoders.groups() if self.encoders is not None else {}
        return groups + [{"name": k, "params": p, "lr": rates[k]} for k, p in live.items()]

    def facts(self) -> dict[str, Any]:
        """What the checkpoint says besides its tensors."""
        return {
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "experiment": asdict(self.experiment),
            "features": asdict(self.model.head.features),
            "encoders": None if self.encoders is None else self.encoders.facts(),
            "fingerprint": self.recipe.fingerprint,
            "recipe": self.recipe.to_json(),
            "split": self.dataset.split,
            "started_from": None if self.start is None else self.start.sha256,
        }

    def save(self, name: str = "last") -> Path:
        """Write ``<name>.safetensors``: the whole state for ``last``, the weights alone for any other name."""
        tensors = {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        if name == "last":
            tensors |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.model).items()}
            tensors["rng.cpu"] = torch.get_rng_state()
            if self.device.type == "cuda":
                tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        path = self.folder / f"{name}.safetensors"
        save_checkpoint(path, self.facts(), tensors)
        return path

    def resume(self) -> bool:
        """Go on from ``last.safetensors`` if there is one; False if there is none.

        Raises CheckpointError when it belongs to another experiment, cache or split.
        """
        path = self.folder / "last.safetensors"
        if not path.exists():
            return False
        saved = load_checkpoint(path)
        now = json.loads(json.dumps(self.facts()))
        differing = [
            k
            for k in ("experiment", "features", "fingerprint", "split", "started_from")
            if saved.facts.get(k) != now[k]
        ]
        if differing:
            raise CheckpointError(
                f"{self.folder} holds a run with another {' and '.join(differing)}",
                **{k: f"run has {saved.facts.get(k)}, asked for {now[k]}" for k in differing if k != "experiment"},
                settings=_differences(saved.facts["experiment"], now["experiment"])
                if "experiment" in differing
                else None,
                effect="nothing was changed",
                hint="choose another --out folder, or repeat the command that started this run",
            )
        load_into(self.model, saved.group("model"), path)
        self.ema.load(saved.group("ema"))
        load_optimizer(self.optimizer, self.model, saved.group("optimizer"))
        torch.set_rng_state(saved.tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["rng.cuda"], self.device)
        self.step = saved.facts["step"]
        self.best = -math.inf if saved.facts["best"] is None else saved.facts["best"]
        return True


def _differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    parts = []
    for key in sorted(saved.keys() | now.keys()):
        a, b = saved.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            parts.append(_differences(a, b, f"{prefix}{key}."))
        elif a != b:
            parts.append(f"{prefix}{key}: run has {a}, asked for {b}")
    return "; ".join(p for p in parts if p)


def learning_rate(config: TrainConfig, step: int, total_steps: int, steps_per_epoch: int, group: str = "head") -> float:
    """Linear warm-up over the first share of all steps; then a division by ten every ``lr_drop`` epochs.

    The text encoder's rate falls linearly to zero instead, as in the baseline.
    """
    warm = max(1, round(config.warmup * total_steps))
    rate = {"head": config.lr, "backbone": config.lr_backbone, "text": config.lr_text}[group]
    if group == "text":
        left = (total_steps - step) / max(1, total_steps - warm)
        return rate * min((step + 1) / warm, left, 1.0)
    return rate * min(1.0, (step + 1) / warm) * 0.1 ** (step // steps_per_epoch // config.lr_drop)


def train(run: Run, validate: Validate | None = None, report: Report | None = None) -> Path:
    """Train until the configured epochs are done; returns the checkpoint to evaluate.

    ``report`` gets every line that goes to metrics.jsonl. Raises TrainingDiverged when a loss or a gradient is no longer
    a number; the last checkpoint is kept. An interrupt saves first.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(run.folder / "metrics.jsonl", run.step, report)
    run.model.train()
    with repeatable(run.device):
        train_epochs(run, metrics, validate)
    if not run.total_steps:
        run.save()
    return run.folder / ("best.safetensors" if (run.folder / "best.safetensors").exists() else "last.safetensors")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a CPU, additions of gradients happen in a fixed order; the default races, and the last bits with it."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = getattr(deterministic, FILL)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        setattr(deterministic, FILL, False)  # nothing here reads what it has not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        setattr(deterministic, FILL, fill)


def train_epochs(run: Run, metrics: MetricsFile, validate: Validate | None) -> None:
    """All that is left of a run, saving after every epoch and when interrupted."""
    t = run.experiment.train
    try:
        while run.step < run.total_steps:
            train_epoch(run, metrics)
            epoch = run.step // run.steps_per_epoch
            last = run.step == run.total_steps
            if validate and (last or (t.eval_every and epoch % t.eval_every == 0)):
                scores = validate(run.ema.model)
                metrics.write({"step": run.step, "epoch": epoch, "validation": scores})
                if scores["m_vIoU"] > run.best:
                    run.best = scores["m_vIoU"]
                    run.save("best")
            run.save()
    except KeyboardInterrupt:
        run.save()
        raise


def train_epoch(run: Run, metrics: MetricsFile) -> None:
    """The rest of the epoch the run stands in."""
    t = run.experiment.train
    epoch, done = divmod(run.step, run.steps_per_epoch)
    order = epoch_order(run.dataset, t.batch_size, t.per_video, t.seed, epoch, t.temporal_crop)
    start = done * t.accumulate
    batches = training_batches(run.dataset, order, t.seed, epoch, start, t.temporal_crop, t.views, run.device)
    while group := list(islice(batches, t.accumulate)):
        for parameters in run.optimizer.param_groups:
            name = parameters["name"]
            parameters["lr"] = learning_rate(t, run.step, run.total_steps, run.steps_per_epoch, name)
        terms = step(run, group)
        run.step += 1
        run.ema.update(run.model)
        if run.step % t.log_every == 0 or run.step == run.total_steps:
            metrics.write(line(run, terms))
        if run.step % t.save_every == 0:
            run.save()


def line(run: Run, terms: dict[str, Tensor]) -> dict[str, Any]:
    """What one step says of itself. ``loss`` is the sum of the terms; MRCL is also given above its floor, log Δ."""
    losses = {k: v.item() for k, v in terms.items()}
    floor = losses.pop("mrcl_floor", None)
    above = {} if floor is None else {"mrcl_above_floor": losses["mrcl"] - floor}
    rates = {"lr" if g["name"] == "head" else f"lr_{g['name']}": g["lr"] for g in run.optimizer.param_groups}
    return {"step": run.step, "loss": sum(losses.values()), **losses, **above, **rates}


def step(run: Run, group: list[Batch]) -> dict[str, Tensor]:
    """One optimiser step over a group of accumulated batches; the mean of their weighted loss terms, detached."""
    t = run.experiment.train
    run.optimizer.zero_grad(set_to_none=True)
    mean: dict[str, Tensor] = {}
    for batch in group:
        moved = batch.to(run.device)
        assert moved.targets is not None
        with torch.autocast(run.device.type, torch.bfloat16, enabled=t.amp == "bf16"):
            output = run.model(moved)
        losses = run.criterion(output, moved.targets, moved.inputs.frame_padding)
        total = torch.stack(list(losses.values())).sum() / len(group)
        guard(run, total, losses, batch)
        total.backward()
        if "mrcl" in losses and losses["mrcl"].requires_grad and run.criterion.config.mrcl_form == "paper":
            losses["mrcl_floor"] = run.criterion.config.mrcl * mrcl_floor(moved.targets.in_moment)
        for name, value in losses.items():
            mean[name] = mean.get(name, torch.zeros((), device=run.device)) + value.detach() / len(group)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), t.clip)
    guard(run, norm, {"gradient norm": norm}, group[-1])
    run.optimizer.step()
    return mean


def guard(run: Run, value: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
    """Stop at the first number that is none, with the step, the terms and the samples."""
    if not bool(value.isfinite()):
        raise TrainingDiverged(
            f"the loss is not a finite number at step {run.step + 1}",
            terms=", ".join(f"{k} {float(v.detach()):.4g}" for k, v in terms.items()),
            samples=", ".join(str(s.sample_id) for s in batch.samples),
            effect=f"weights of step {run.step} and before are untouched in {run.folder}",
            hint="a lower --set train.lr, or train.amp=none",
        )


@dataclass
class MetricsFile:
    """metrics.jsonl: one line per report. A resumed run first drops lines past the step it resumes from."""

    path: Path
    step: int
    report: Report | None

    def __post_init__(self) -> None:
        if self.path.exists():
            kept = [line for line in self._lines() if line["step"] <= self.step]
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # a line cut short by a kill; its step is repeated
                return

    def write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.report:
            self.report(line)
