"""The table of heads: a published system is a row, and a module that its row names."""

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
"""What every head that came of MDETR's has."""


@dataclass(frozen=True)
class Row:
    """One head: what it is told, how it is built, and how it decides."""

    config: type[HeadConfig]
    """Its settings, which also say what frames its clips are made of."""
    loss: type[TubeLoss]
    """Weights of its losses, which know its terms."""
    build: Callable[[Any, FeatureFacts, bool], nn.Module]
    """(settings, features, whether a loss teaches it to score candidates) → the head."""
    join: Callable[[list[Window]], Tube] = join
    """All clips of a sample at inference → its tube."""
    explain: Callable[[list[Window]], Reading] = explain
    """The same, with the evidence."""
    required: tuple[str, ...] = REQUIRED
    """The parts that it must take over whole, where it starts from weights."""
    starts_from: Callable[[StateDict], StateDict] = dict
    """Weights of any head that was read → those it starts from, under its own names."""
    late: str | None = None
    """The part of it whose learning rate has a schedule of its own; see `training.schedule`."""


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
    """The row of a head. Raises UsageError where there is none."""
    if name not in HEADS:
        raise UsageError(f"there is no head {name!r}", hint=nearest(str(name), HEADS))
    return HEADS[str(name)]


def build_model(config: HeadConfig, features: FeatureFacts, seed: int = 0, scored: bool = True) -> Any:
    """The head of some settings with seeded initial weights; the caller's random state is left as it was. ``scored``: a
    loss teaches it to score candidates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return row_of(config.head).build(config, features, scored)
