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
from ..weight_files import CHECKPOINTS, find_file, require_finite
from ..weights import StateDict, read_weights, some, state_sha256
from ..wording import counted
from .checkpoint import FORMAT, load_checkpoint
from .stcat.names import ANCHOR as STCAT
from .table import row_of

log = logging.getLogger(__name__)

NOISE = 0.02
"""Of repeated queries, as a share of their own spread: equal ones would stay equal for ever."""
FILES = ("head.safetensors", *CHECKPOINTS)
"""What is taken from a folder of `stvg weights import`, or of a run."""
STATISTICS = "standards."
"""Of the features, by which a head may standardise them: a file without them leaves those of the cache in place."""
OF_LEVELS = (STATISTICS, "level_proj.")
"""What a head has for each level under the level's name."""
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
    queries: str = ""
    """What became of the file's queries, where the head has more of them."""

    def __str__(self) -> str:
        """As it is said to people, with the parts of the head that the weights do not have."""
        drawn = f"{counted(len(self.fresh), 'tensor')} drawn afresh{parts(self.fresh)}"
        unused = f"{len(self.unused)} of the file's unused{parts(self.unused)}"
        return "; ".join(filter(None, [f"the head starts from {self.source}", drawn, unused, self.queries]))


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
    weights = under_levels_of(model, row.starts_from(read.tensors))
    wanted = dict(model.state_dict())
    copies = "anchor_layers."  # the second stream's own layers start as the first's (table VIII)
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
    """Weights under the names of the levels that a head reads.

    A level of one encoder alone is called c3; of several side by side, resnet101-c3. One name stands for the other where it
    can mean one level only, and the weights are of its size.
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
    """Whether two names of levels differ in that one says its encoder."""
    return name.endswith(f"-{other}") or other.endswith(f"-{name}")


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
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    return rows[index] + repeated * noise * rows.std() * NOISE
