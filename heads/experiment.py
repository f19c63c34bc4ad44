"""One experiment's settings: model, loss, training. Shipped presets are YAML overrides of these dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ..config import build, load_yaml, merge, nearest, override
from ..errors import UsageError
from ..options import AMP
from .losses import LossConfig
from .model_config import ModelConfig
from .presets import presets

MODES = ("cached", "text", "last-stage", "end-to-end")
SCHEDULES = ("linear-text", "stepped", "linear-late")
"""See `training.schedule`."""


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe. Defaults are the paper's for VidSTG; epochs are counted over the training split."""

    mode: str = "cached"
    """What trains besides the head: ``cached`` nothing; ``text`` the text encoder; ``last-stage`` the backbone's last
    stage, on cached maps of the level before; ``end-to-end`` both encoders, from pixels."""
    epochs: int = 15
    """0 writes the initial weights, for example imported ones, as a checkpoint that can be evaluated."""
    batch_size: int = 16
    accumulate: int = 1
    """Batches added up before an optimiser step."""
    lr: float = 5e-5
    lr_backbone: float = 1e-5
    """0: the backbone stays frozen, whatever the mode."""
    lr_text: float = 5e-5
    """0: the text encoder stays frozen. Falls linearly to zero after the warm-up, as the baseline's does."""
    lr_drop: int = 12
    """Every this many epochs the learning rate is divided by ten."""
    warmup: float = 0.01
    """Share of all steps over which the learning rate grows linearly from zero."""
    schedule: str = "linear-text"
    """Which rates warm up, and which fall in a line instead of steps: ``linear-text``, ``stepped``, ``linear-late``."""
    weight_decay: float = 1e-4
    clip: float = 0.1
    """Largest gradient norm."""
    ema: float = 0.9998
    """Decay of the averaged weights, which are the ones evaluated; updated after every optimiser step."""
    amp: str = "none"
    """``none``: float32. ``tf32``: a GPU may round the factors of products to 10 bits. ``bf16``: autocast of the forward
    pass; losses stay in float32. Scores are always computed in float32."""
    recompute: bool = False
    """Forget what happens inside the transformer layers and compute it again in the backward pass: less memory, more time,
    the same weights bit for bit."""
    temporal_crop: bool = True
    views: bool = True
    """Train on every stored view of a video; end to end, on a freshly drawn one for every sample."""
    per_video: int = 1
    """At most this many sentences of one video stand together in an epoch's order. More share one read and one projection
    of its features, and make batches more alike, which costs accuracy (docs/benchmarks.md)."""
    seed: int = 42
    log_every: int = 10
    save_every: int = 500
    """Steps between checkpoints; there is one after every epoch in any case."""
    eval_every: int = 1
    """Epochs between validations; 0: only at the end."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")
        if self.epochs < 0 or self.lr_backbone < 0 or self.lr_text < 0:
            raise ValueError("epochs, lr_backbone and lr_text must not be negative")
        for name in ("batch_size", "accumulate", "lr_drop", "per_video", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.amp not in AMP:
            raise ValueError(f"amp is {self.amp!r}, expected one of {', '.join(AMP)}")
        if not (self.lr > 0 and 0 <= self.warmup <= 1 and 0 <= self.ema < 1 and self.clip > 0 and self.eval_every >= 0):
            raise ValueError("lr and clip must be positive, warmup in [0, 1], ema in [0, 1), eval_every not negative")


@dataclass(frozen=True)
class Experiment:
    """Everything `train-head` can be told, in three groups."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        model, loss = self.model, self.loss
        of_any_head = (loss.l1, loss.giou, loss.span, loss.attention)
        of_candidates = (loss.label, loss.mrcl if model.num_queries > 1 else 0)
        if not any(of_any_head) and not (model.qmm and any(of_candidates)):
            raise ValueError("every loss that this head has is of weight 0: nothing would train")


def load_experiment(preset: str, assignments: Sequence[str] = ()) -> Experiment:
    """A shipped preset or a YAML file, then ``--set`` assignments. Raises UsageError for anything unknown."""
    if preset in presets():
        with resources.as_file(resources.files(presets.__module__).joinpath(f"{preset}.yaml")) as path:
            values = load_yaml(path)
    elif preset.endswith((".yaml", ".yml")):
        values = load_yaml(Path(preset))
    else:
        raise UsageError(f"there is no preset {preset!r}", hint=nearest(preset, presets()) + " (or a .yaml file)")
    return build(Experiment, override(merge({}, values), assignments), preset)
