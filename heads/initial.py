"""A head that starts from imported weights: what fits is loaded, what the head has beyond them stays as it was drawn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cache.errors import CheckpointError
from ..cache.weights import read_state_dict, some, state_sha256
from .model import FSM

log = logging.getLogger(__name__)

REQUIRED = ("input_proj", "resizer", "encoder", "decoder", "bbox_embed", "query_embed")
"""What every head of this family has, and must take over whole."""
NOISE = 0.02
"""Of repeated queries, as a share of their own spread: equal ones would stay equal for ever."""


@dataclass(frozen=True)
class Start:
    """Where a head started."""

    sha256: str
    """Of the weights, whatever file they were in."""
    fresh: list[str]
    """Parameters that the weights do not have."""
    unused: list[str]
    """Weights that the head has no place for."""


def start_from(model: FSM, path: Path) -> Start:
    """Load what `stvg weights import` wrote as ``head.safetensors``, as far as the head has a place for it.

    The head takes the first of the file's queries; where it has more, they are repeated with a little noise. Raises
    CheckpointError when projection, resizer, encoder, decoder, box head or queries are missing or of another size.
    """
    weights = read_state_dict(path)
    wanted = dict(model.state_dict())
    copies = "anchor_layers."  # the second stream's own layers start as the first's (table VIII)
    found = weights | {copies + k.removeprefix("decoder.layers."): v for k, v in weights.items() if k.startswith("decoder.layers.")}  # fmt: skip  # noqa: E501
    if "query_embed.weight" in found:
        found["query_embed.weight"] = fit_queries(found["query_embed.weight"], len(wanted["query_embed.weight"]))
    known = found.keys() & wanted.keys()
    wrong = [k for k in sorted(known) if found[k].shape != wanted[k].shape]
    fresh = [k for k in wanted if k not in found]
    lost = [k for k in fresh if k.partition(".")[0] in REQUIRED]
    if wrong or lost:
        sizes = (f"{k} is {tuple(found[k].shape)} here, {tuple(wanted[k].shape)} in the head" for k in wrong)
        raise CheckpointError(
            f"{path} does not fit this head",
            missing=some(lost),
            misshapen=some(sizes, 2),
            effect="nothing was trained",
            hint="choose the preset that the weights were made for, and give them the features that they know",
        )
    model.load_state_dict({k: found[k] for k in known}, strict=False)
    unused = sorted(k for k in weights if k not in wanted)
    return Start(state_sha256(weights), fresh, unused)


def fit_queries(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` queries (count, d); where there are fewer, repeated ones with seeded noise."""
    index = torch.arange(count) % len(rows)
    repeated = (torch.arange(count) >= len(rows))[:, None]
    if not repeated.any():
        return rows[:count]
    log.warning("%d queries are made of %d imported ones, with a little noise", count, len(rows))
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    return rows[index] + repeated * noise * rows.std() * NOISE
