"""The table of heads. To add a published system, add a row and the module that it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..cache.schema import Tube
from ..config import nearest
from ..errors import UsageError
from ..weights import StateDict
from .decision import Reading, Window, explain, join
from .fsm.losses import LossConfig
from .fsm.model import FSM
from .losses import TubeLoss
from .model_config import FeatureFacts, HeadConfig, ModelConfig, TubeDETRConfig
from .stcat.config import STCATConfig
from .stcat.decision import explain_passes, join_passes
from .stcat.losses import STCATLoss
from .stcat.model import STCAT
from .stcat.names import adopted
from .tubedetr import TubeDETR

REQUIRED = ("input_proj", "resizer", "encoder", "decoder", "bbox_embed", "query_embed")
"""The parts of every head that is derived from MDETR's."""


@dataclass(frozen=True)
class Row:
    """A head: its settings, its losses, and how it is built and decoded."""

    config: type[HeadConfig]
    """Its settings, which also determine the frames of its clips."""
    loss: type[TubeLoss]
    """Its loss settings, which define its terms."""
    build: Callable[[Any, FeatureFacts, bool], nn.Module]
    """(settings, features, whether a loss trains the candidates' scores) → the head."""
    join: Callable[[list[Window]], Tube] = join
    """All windows of a sample at inference → its tube."""
    explain: Callable[[list[Window]], Reading] = explain
    """All windows of a sample at inference → its tube and the evidence for it."""
    required: tuple[str, ...] = REQUIRED
    """The parts that initial weights must contain completely."""
    starts_from: Callable[[StateDict], StateDict] = dict
    """Weights of any head → the tensors that this head starts from, under its own names."""
    late: str | None = None
    """The part of it whose learning rate has its own schedule; see `training.schedule`."""


HEADS = {
    "fsm": Row(ModelConfig, LossConfig, FSM),
    "tubedetr": Row(TubeDETRConfig, TubeLoss, lambda config, features, _: TubeDETR(config, features)),
    "stcat": Row(
        STCATConfig,
        STCATLoss,
        lambda config, features, _: STCAT(config, features),
        join=join_passes,
        explain=explain_passes,
        required=("input_proj", "resizer", "bbox_embed", "encoder.spatial_layers"),
        starts_from=adopted,
        late="temporal_decoder",
    ),
}


def row_of(name: object) -> Row:
    """The row of a head. Raises UsageError for an unknown name."""
    if name not in HEADS:
        raise UsageError(f"there is no head {name!r}", hint=nearest(str(name), HEADS))
    return HEADS[str(name)]


def build_model(config: HeadConfig, features: FeatureFacts, seed: int = 0, scored: bool = True) -> Any:
    """A head with seeded random weights; the caller's random state is unchanged. ``scored``: a loss trains the
    candidates' scores."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return row_of(config.head).build(config, features, scored)
