"""The request of a training run, as its record stores it, and the run made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.sampling import Sampling
from ...requested import ENCODERS
from ..settings import Experiment, experiment_of
from .ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from ...cache.contents import Contents
    from ...cache.index import Cache
    from .state import Run

SOURCES = (*ENCODERS, "videos")
PLACES = ("cache_path", "init", "backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "videos")
"""Options that may have another location when a run is repeated. All but the videos and the tokenizer are compared by
hash."""


@dataclass(frozen=True)
class RunRequest:
    """A request. Paths are absolute, and may differ when a run is repeated; all other fields may not."""

    cache: str
    experiment: Experiment
    split: str
    val_split: str
    protocol: str
    device: str
    annotation_set: str | None = None
    """The name of the annotation set; None: the only one of the cache."""
    preset: str | None = None
    """The preset that ``experiment`` was made from; None: not recorded."""
    init: str | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    """Fields of `live_encoders.Sources`."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> RunRequest:
        """From the output of `dataclasses.asdict`. Raises UsageError for invalid settings, TypeError for unknown
        fields."""
        return cls(**{**stored, "experiment": experiment_of(stored["experiment"], where)})

    @property
    def reads_pixels(self) -> bool:
        """Whether it trains end to end."""
        return self.experiment.train.mode == "end-to-end"

    def contents(self, cache: Cache, split: str) -> Contents:
        """The part of a split that its mode can read: the samples whose features exist, or whose videos exist."""
        if not self.reads_pixels:
            return cache.contents(split)
        from .live_batches import LivePixels

        level, sampling = cache.recipe.visual.levels[-1].name, Sampling(cache.recipe.fps)
        return LivePixels(cache, split, sampling, None, level, Path(self.sources["videos"])).contents()

    def run(self, folder: Path, cache: Cache, device: torch.device, ranks: Ranks = ALONE) -> Run:
        """The run of this request, not yet resumed. ``cache``: the opened cache of this request."""
        from .state import Run

        init = None if self.init is None else Path(self.init)
        sources = {**self.sources, "videos": self.sources.get("videos") and Path(self.sources["videos"])}
        return Run(folder, cache, self.experiment, self.split, device, sources, init, ranks)


def repeated(ctx: click.Context, request: RunRequest, given: dict[str, Any]) -> RunRequest:
    """A recorded request, with other locations where given. Raises UsageError for any other option."""
    typed = {n for n in given if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
    if wrong := sorted(typed - set(PLACES)):
        name = {"assignments": "set"}.get(wrong[0], wrong[0].replace("_", "-"))
        raise click.UsageError(f"--{name} does not go with --from-record: the record says")
    moved = {name: placed(name, given[name]) for name in typed}
    cache, init = moved.pop("cache_path", request.cache), moved.pop("init", request.init)
    return replace(request, cache=str(cache), init=init, sources={**request.sources, **moved})


def placed(name: str, given: Any) -> str | None:
    """A location as of `place`; for several encoders side by side, their comma-separated names or weights."""
    one = encoder_place if name in ("backbone", "text_encoder") else place
    if name in ("backbone", "backbone_weights") and "," in str(given) and not Path(given).exists():
        return ",".join((one(part.strip()) or "") if part.strip() else "" for part in given.split(","))
    return one(given)


def place(given: Any) -> str | None:
    """A path made absolute, so that it is valid from any folder. 'random' and URLs are returned unchanged."""
    if given is None or given == "random" or "://" in str(given):
        return None if given is None else str(given)
    return str(Path(given).absolute())


def encoder_place(name: str | None) -> str | None:
    """The name of an encoder, with the path of its folder or file as of `place`."""
    kind, _, folder = (name or "").partition(":")
    file, _, kept = (name or "").rpartition(":")
    if kind == "hf":
        return f"hf:{place(folder)}"
    return f"{place(file)}:{kept}" if file.endswith(".py") else name
