"""The settings of an experiment: model, loss, training. Shipped presets are YAML overrides of these dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from ..config import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    SHARE,
    Range,
    Settings,
    build,
    load_yaml,
    merge,
    nearest,
    override,
    setting,
)
from ..errors import UsageError
from ..options import AMP
from ..requested import MODES
from .fsm.losses import LossConfig
from .losses import TubeLoss
from .model_config import HeadConfig, ModelConfig
from .presets import presets
from .table import HEADS, Row, row_of

SCHEDULES = ("linear-text", "stepped", "linear-late")
"""See `training.schedule`."""


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The training recipe. Defaults are the paper's for VidSTG; epochs are counted over the training split."""

    mode: str = setting("cached", MODES, "this project")
    """What trains besides the head. ``cached``: nothing. ``text``: the text encoder. ``last-stage``: the backbone's
    last stage, on cached maps of the level before. ``end-to-end``: both encoders, from pixels."""
    epochs: int = setting(15, AT_LEAST_0, "FSM's code, VidSTG")
    """Passes over the training split. 0 writes the initial weights, for example imported ones, as a checkpoint that can
    be evaluated."""
    batch_size: int = setting(16, AT_LEAST_1, "TubeDETR: one sample on each of 16 GPUs")
    """Samples per optimiser step, over all ranks."""
    accumulate: int = setting(0, AT_LEAST_0, "this project")
    """Batches accumulated per optimiser step. 0: one. For ``end-to-end``, 0 divides the batch into as few parts as fit
    the device; the memory that one clip and two clips need is measured."""
    lr: float = setting(5e-5, POSITIVE, "FSM's paper")
    """Learning rate of the head."""
    lr_backbone: float = setting(1e-5, AT_LEAST_0, "FSM's paper")
    """Learning rate of the backbone, where it trains. 0: it stays frozen in every mode."""
    lr_text: float = setting(5e-5, AT_LEAST_0, "FSM's paper")
    """Learning rate of the text encoder, where it trains. 0: it stays frozen."""
    lr_drop: int = setting(12, AT_LEAST_1, "FSM's code, VidSTG")
    """Number of epochs between divisions of the learning rate by ten."""
    warmup: float = setting(0.01, Range(0, 1), "TubeDETR")
    """Share of all steps in which the learning rate grows linearly from zero, for the groups that the schedule warms
    up."""
    schedule: str = setting("linear-text", SCHEDULES, "TubeDETR")
    """Which learning rates warm up, and which decay linearly instead of in steps. ``linear-text``: the text encoder
    warms up and decays linearly. ``stepped``: all warm up. ``linear-late``: STCAT's for HC-STVG."""
    weight_decay: float = setting(1e-4, AT_LEAST_0, "FSM's paper")
    """AdamW's weight decay, for all parameters."""
    clip: float = setting(0.1, POSITIVE, "FSM's code")
    """Gradients are clipped to this norm."""
    ema: float = setting(0.9998, SHARE, "FSM's code")
    """Decay of the averaged weights, which are the ones evaluated. They are updated after every optimiser step."""
    amp: str = setting("auto", ("auto", *AMP), "this project")
    """``none``: float32. ``tf32``: a GPU may round the factors of products to 10 bits. ``bf16``: autocast of the forward
    pass; norms, boxes, logits, losses and weights stay in float32. ``auto``: ``bf16`` on a GPU, ``none`` on a CPU. Scores
    are always computed in float32."""
    recompute: bool = setting(False, source="this project")
    """Gradient checkpointing: discard activations inside the transformer layers and the cell map, and recompute them in
    the backward pass. Less memory, more time, the same weights bit for bit. For ``end-to-end`` also inside the
    backbone."""
    temporal_crop: bool = setting(True, source="TubeDETR")
    """Train on a random crop in time of every clip, which keeps a part of the moment."""
    views: bool = setting(True, source="this project")
    """Train on every stored view of a video; for ``end-to-end``, on a new random view of every sample."""
    per_video: int = setting(1, AT_LEAST_1, "this project, measured")
    """Maximum number of consecutive sentences of one video in an epoch's order. More of them share one read and one
    projection of its features. They also make batches less diverse, which costs accuracy (docs/benchmarks.md)."""
    seed: int = setting(42, source="FSM's code")
    """Random seed of the initial weights, the order of samples, and all random numbers in training."""
    log_every: int = setting(10, AT_LEAST_1, "this project")
    """Steps between lines of metrics.jsonl."""
    save_every: int = setting(500, AT_LEAST_1, "this project")
    """Steps between checkpoints. Every epoch also ends with one."""
    eval_every: int = setting(1, AT_LEAST_0, "FSM's code")
    """Epochs between validations. 0: only at the end."""


@dataclass(frozen=True)
class Experiment:
    """All settings of `train-head`, in three groups."""

    model: HeadConfig = field(default_factory=ModelConfig)
    """Settings of the head that ``head`` names."""
    loss: TubeLoss = field(default_factory=LossConfig)
    """Loss weights of the same head."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        row = row_of(self.model.head)
        if type(self.model) is not row.config or type(self.loss) is not row.loss:
            raise ValueError(f"model and loss are not those of the head {self.model.head!r}")
        if not self.loss.trains(self.model):
            raise ValueError("every loss that this head has is of weight 0: nothing would train")


def experiment_of(values: Mapping[str, Any], where: str) -> Experiment:
    """The experiment of nested settings; their types depend on the head. Raises UsageError as `build` does."""
    model = values.get("model") or {}
    name = model.get("head", HeadConfig.head) if isinstance(model, Mapping) else HeadConfig.head
    row = row_of(name)
    for group in ("model", "loss"):
        require_own(group, values.get(group), str(name))
    return build(Experiment, values, where, {"model": row.config, "loss": row.loss})


def require_own(group: str, given: Any, head: str) -> None:
    """Raises UsageError for a setting of the group ``model`` or ``loss`` that only other heads have."""
    for key in given if isinstance(given, Mapping) else ():
        having = [name for name, row in HEADS.items() if key in known_of(row)[group]]
        if having and head not in having:
            raise UsageError(
                f"the head {head} has no setting {group}.{key}",
                found=f"a setting of {' and '.join(having)}",
                hint=f"leave it out, or --set model.head={having[0]}",
            )


def known_of(row: Row) -> dict[str, set[str]]:
    """The names of a head's settings."""
    return {"model": {f.name for f in fields(row.config)}, "loss": {f.name for f in fields(row.loss)}}


def load_experiment(preset: str, assignments: Sequence[str] = ()) -> Experiment:
    """A shipped preset or a YAML file, then ``--set`` assignments. Raises UsageError for anything unknown."""
    if preset in presets():
        with resources.as_file(resources.files(presets.__module__).joinpath(f"{preset}.yaml")) as path:
            values = load_yaml(path)
    elif preset.endswith((".yaml", ".yml")):
        values = load_yaml(Path(preset))
    else:
        raise UsageError(f"there is no preset {preset!r}", hint=nearest(preset, presets()) + " (or a .yaml file)")
    return experiment_of(override(of_another_head(values, assignments), assignments), preset)


def of_another_head(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A preset's settings. Where the assignments name another head, those that this head does not have are left out."""
    model = override({}, assignments).get("model")
    if not isinstance(model, dict) or "head" not in model:
        return merge({}, values)
    known = known_of(row_of(model["head"]))
    return {
        group: {k: v for k, v in given.items() if k in known[group]} if group in known else given
        for group, given in merge({}, values).items()
    }
