"""Initialise a head from imported weights or a checkpoint: matching tensors are loaded, the others stay randomly
initialised."""

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

from ..config import flat
from ..errors import CheckpointError
from ..weight_files import CHECKPOINTS, find_file, require_finite
from ..weights import StateDict, read_weights, some, state_sha256
from ..wording import counted
from .checkpoint import FORMAT, load_checkpoint
from .stcat.names import ANCHOR as STCAT
from .table import row_of

log = logging.getLogger(__name__)

NOISE = 0.02
"""Standard deviation of the noise on repeated queries, as a share of the queries' own. Equal queries would stay
equal."""
FILES = ("head.safetensors", *CHECKPOINTS)
"""Names of weight files in a folder of `stvg weights import` or of a run."""
STATISTICS = "standards."
"""Prefix of the statistics that features are standardised by. A file without them leaves those of the cache in
place."""
OF_LEVELS = (STATISTICS, "level_proj.")
"""Prefixes of tensors that a head has once for each level, under the level's name."""
ANCHOR = "query_embed.weight"
"""The tensor by which a head is located in a larger model; `STCAT` is that of an STCAT head."""


@dataclass(frozen=True)
class Start:
    """The weights that a head was initialised from."""

    sha256: str
    """SHA-256 of the weights; it does not depend on the file format."""
    fresh: list[str]
    """Tensors of the head that the weights lack."""
    unused: list[str]
    """Tensors of the weights that the head does not have."""
    source: str
    """The file that was read, and which part of it was taken."""
    otherwise: str = ""
    """Settings in which the source head differs from this one, although its tensors fit."""
    queries: str = ""
    """How the file's queries were extended, where the head has more."""

    def __str__(self) -> str:
        """The summary for users, with the parts of the head that the weights lack."""
        drawn = f"{counted(len(self.fresh), 'tensor')} drawn afresh{parts(self.fresh)}"
        unused = f"{len(self.unused)} of the file's unused{parts(self.unused)}"
        return "; ".join(filter(None, [f"the head starts from {self.source}", drawn, unused, self.queries]))


def parts(names: list[str]) -> str:
    """The parts of a head that some tensors belong to, with counts."""
    groups = [".".join(word for word in name.split(".")[:-1][:2] if not word.isdigit()) or name for name in names]
    found = ", ".join(f"{g} {groups.count(g)}" for g in dict.fromkeys(groups))
    return f" ({found})" if found else ""


@dataclass(frozen=True)
class Found:
    """A head's weights, their source, and that head's settings where the file has them."""

    tensors: StateDict
    source: str
    settings: dict[str, Any] | None = None

    @cached_property
    def sha256(self) -> str:
        return state_sha256(self.tensors)


def start_from(model: Any, place: Path) -> Start:
    """Load the tensors of a file that this head has; see `read_head` and `fitting`."""
    found, start = fitting(model, read_head(place))
    if start.otherwise:
        log.warning("the head of %s had other settings: %s", start.source, start.otherwise)
    model.load_state_dict(found, strict=False)
    return start


def fitting(model: Any, read: Found) -> tuple[StateDict, Start]:
    """The tensors of a file that this head has, under its own names. The head may be on the meta device.

    The head takes the first of the file's queries; where it has more, they are repeated with a little noise. Raises
    CheckpointError where a part that the head requires (`Row.required`) is missing, where shapes differ, or where the
    file records another number of attention heads, which tensors do not show.
    """
    row = row_of(model.config.head)
    weights = under_levels_of(model, row.starts_from(read.tensors))
    wanted = dict(model.state_dict())
    copies = "anchor_layers."  # the second stream's own layers are initialised as the first's (table VIII)
    found = {copies + k.removeprefix("decoder.layers."): v for k, v in weights.items() if k.startswith("decoder.layers.")} | weights  # fmt: skip  # noqa: E501
    queries = ""
    if ANCHOR in found and ANCHOR in wanted and found[ANCHOR].dim() == 2:
        given, count = len(found[ANCHOR]), len(wanted[ANCHOR])
        queries = f"{count} queries are made of {given} imported, with a little noise" if count > given else ""
        found[ANCHOR] = fit_queries(found[ANCHOR], count)
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
    return {k: found[k] for k in known}, Start(read.sha256, fresh, unused, read.source, otherwise, queries)


def under_levels_of(model: Any, weights: StateDict) -> StateDict:
    """Weights renamed to the levels that a head reads.

    A level of a single encoder is called c3; of several encoders side by side, resnet101-c3. One name replaces the
    other where only one level can be meant and the shapes agree.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    here = {level.name for level in (model.memory_level, *model.region_levels)}
    names = {name: name for name in weights}
    for room in OF_LEVELS:
        there = {name.split(".")[1] for name in weights if name.startswith(room)}
        pairs = [(old, new) for old in there - here for new in here - there if one_level(old, new)]
        for old, new in pairs:
            moved = {
                n: n.replace(f"{room}{old}.", f"{room}{new}.", 1) for n in weights if n.startswith(f"{room}{old}.")
            }
            alone = sum(old == o or new == n for o, n in pairs) == 1
            if alone and all(weights[n].shape == wanted.get(to) for n, to in moved.items()):
                names |= moved
    return {names[name]: value for name, value in weights.items()}


def one_level(name: str, other: str) -> bool:
    """Whether two level names differ only in that one includes its encoder."""
    return name.endswith(f"-{other}") or other.endswith(f"-{name}")


def read_head(place: Path) -> Found:
    """The averaged head of a checkpoint of `stvg train-head`, or the head of another weight file that uses our names.

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
    """The format in the header of a safetensors file; empty for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (SafetensorError, OSError):
        return ""


def differing_settings(read: Found, model: Any) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between the head of the file and this one; empty where the file has none."""
    if read.settings is None:
        return {}
    there, here = flat(read.settings), flat(asdict(model.config))
    return {k: (there[k], v) for k, v in here.items() if k in there and json.dumps(there[k]) != json.dumps(v)}


def fit_queries(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` queries (count, d). Where there are fewer, they are repeated with seeded noise."""
    index = torch.arange(count) % len(rows)
    repeated = (torch.arange(count) >= len(rows))[:, None]
    if not repeated.any():
        return rows[:count]
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    return rows[index] + repeated * noise * rows.std() * NOISE
