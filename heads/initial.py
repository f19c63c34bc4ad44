"""A head that starts from imported weights or a checkpoint: what fits is loaded, what it has beyond them stays as drawn."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..weight_files import find_file, require_finite
from ..weights import StateDict, read_weights, some, state_sha256
from ..wording import counted
from .checkpoint import FORMAT, load_checkpoint
from .stcat.names import ANCHOR as STCAT
from .table import row_of

log = logging.getLogger(__name__)

NOISE = 0.02
"""Of repeated queries, as a share of their own spread: equal ones would stay equal for ever."""
FILES = ("head.safetensors", "best.safetensors", "last.safetensors")
"""What is taken from a folder of `stvg weights import`, or of a run."""
STATISTICS = "standards."
"""Of the features, by which a head may standardise them: a file without them leaves those of the cache in place."""
ANCHOR = "query_embed.weight"
"""Where a head stands in a larger model is seen by this tensor; an STCAT head by that one."""


@dataclass(frozen=True)
class Start:
    """Where a head started."""

    sha256: str
    """Of the weights, whatever file they were in."""
    fresh: list[str]
    """Parameters that the weights do not have."""
    unused: list[str]
    """Weights that the head has no place for."""
    source: str
    """The file they were read from, and what of it was taken."""
    otherwise: str = ""
    """Settings of the head that they are of, where others fit them as well."""

    def __str__(self) -> str:
        """As it is said to people, with the parts of the head that the weights do not have."""
        drawn = f"{counted(len(self.fresh), 'tensor')} drawn afresh{parts(self.fresh)}"
        return (
            f"the head starts from {self.source}; {drawn}; {len(self.unused)} of the file's unused{parts(self.unused)}"
        )


def parts(names: list[str]) -> str:
    """The parts of a head that some tensors belong to, and how many to each."""
    groups = [".".join(word for word in name.split(".")[:-1][:2] if not word.isdigit()) or name for name in names]
    found = ", ".join(f"{g} {groups.count(g)}" for g in dict.fromkeys(groups))
    return f" ({found})" if found else ""


@dataclass(frozen=True)
class Found:
    """A head's weights, where they come from, and the settings of the head they are of, where the file says them."""

    tensors: StateDict
    source: str
    settings: dict[str, Any] | None = None

    @cached_property
    def sha256(self) -> str:
        return state_sha256(self.tensors)


def start_from(model: Any, place: Path) -> Start:
    """Load a head as far as this one has a place for it; see `read_head` and `fitting`."""
    found, start = fitting(model, read_head(place))
    if start.otherwise:
        log.warning("the head of %s had other settings: %s", start.source, start.otherwise)
    model.load_state_dict(found, strict=False)
    return start


def fitting(model: Any, read: Found) -> tuple[StateDict, Start]:
    """What of a head that was read this one has a place for, under its own names; this one may lie on the meta device.

    The head takes the first of the file's queries; where it has more, they are repeated with a little noise. Raises
    CheckpointError when projection, resizer, encoder, decoder, box head or queries are missing or of another size, or the
    file's head had another number of attention heads, which leaves no trace in its tensors.
    """
    row = row_of(model.config.head)
    weights = row.starts_from(read.tensors)
    wanted = dict(model.state_dict())
    copies = "anchor_layers."  # the second stream's own layers start as the first's (table VIII)
    found = {copies + k.removeprefix("decoder.layers."): v for k, v in weights.items() if k.startswith("decoder.layers.")} | weights  # fmt: skip  # noqa: E501
    if ANCHOR in found and ANCHOR in wanted and found[ANCHOR].dim() == 2:
        found[ANCHOR] = fit_queries(found[ANCHOR], len(wanted[ANCHOR]))
    known = found.keys() & wanted.keys()
    wrong = [k for k in sorted(known) if found[k].shape != wanted[k].shape]
    fresh = [k for k in wanted if k not in found and not k.startswith(STATISTICS)]
    lost = [k for k in fresh if k.startswith(tuple(f"{part}." for part in row.required))]
    changed = differing_settings(read, model)
    if wrong or lost or "heads" in changed:
        sizes = (f"{k} is {tuple(found[k].shape)} here, {tuple(wanted[k].shape)} in the head" for k in wrong)
        foreign = any(k.startswith("transformer.") for k in weights)
        raise CheckpointError(
            f"{read.source} does not fit this head",
            missing=some(lost),
            misshapen=some(sizes, 2),
            settings=some((f"model.{k}: {a} there, {b} here" for k, (a, b) in changed.items()), 8),
            effect="nothing was trained",
            hint="stvg weights import makes a head of it"
            if foreign
            else "choose the preset that the weights were made for, and give them the features that they know",
        )
    otherwise = some((f"model.{k} {a}, now {b}" for k, (a, b) in changed.items()), 8) or ""
    unused = sorted(k for k in weights if k not in wanted)
    return {k: found[k] for k in known}, Start(read.sha256, fresh, unused, read.source, otherwise)


def read_head(place: Path) -> Found:
    """The head of a checkpoint of `stvg train-head`, averaged, or of any file of weights in which it has our names.

    ``place``: a file, or a folder that holds one of `FILES`. Raises CheckpointError.
    """
    path = find_file(place, FILES)
    if format_of(path).startswith(FORMAT.rstrip("0123456789")):
        saved = load_checkpoint(path, ("ema",))
        tensors = saved.group("ema.head")
        require_finite(tensors, path)
        source = f"{path} (averaged head of step {saved.facts['step']:,})"
        return Found(tensors, source, saved.facts["experiment"]["model"])
    weights = read_weights(path)
    found = weights.beside(STCAT if weights.prefix_of(STCAT) is not None else ANCHOR)
    return Found(found.tensors, str(found))


def format_of(path: Path) -> str:
    """What the header of a safetensors file says it is; empty for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (SafetensorError, OSError):
        return ""


def differing_settings(read: Found, model: Any) -> dict[str, tuple[Any, Any]]:
    """Settings of the head that was read and of this one where they differ; none where the file does not say."""
    if read.settings is None:
        return {}
    there, here = flat(read.settings), flat(asdict(model.config))
    return {k: (there[k], v) for k, v in here.items() if k in there and json.dumps(there[k]) != json.dumps(v)}


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of all levels under dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def fit_queries(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` queries (count, d); where there are fewer, repeated ones with seeded noise."""
    index = torch.arange(count) % len(rows)
    repeated = (torch.arange(count) >= len(rows))[:, None]
    if not repeated.any():
        return rows[:count]
    log.warning("%d queries are made of %d imported ones, with a little noise", count, len(rows))
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    return rows[index] + repeated * noise * rows.std() * NOISE
