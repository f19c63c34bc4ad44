"""What a run was asked for, as its record keeps it, and the run that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.sampling import Sampling
from ..settings import Experiment, experiment_of
from .ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from ...cache.contents import Contents
    from ...cache.index import Cache
    from .state import Run

SOURCES = ("backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "weights_seed", "videos")
PLACES = ("cache_path", "init", "backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "videos")
"""What may lie elsewhere when a run is repeated. All of it but the videos and the tokenizer is compared by its hash."""


@dataclass(frozen=True)
class RunRequest:
    """What was asked for: places are absolute, and may be others when a run is repeated; all else may not."""

    cache: str
    experiment: Experiment
    split: str
    val_split: str
    protocol: str
    device: str
    annotation_set: str | None = None
    """The name of the annotation set; None: the only one."""
    preset: str | None = None
    """What ``experiment`` began as; None: that was not kept."""
    init: str | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    """Fields of `live_encoders.Sources`."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> RunRequest:
        """Of what `dataclasses.asdict` gave. Raises UsageError for settings that are none, TypeError for other fields."""
        return cls(**{**stored, "experiment": experiment_of(stored["experiment"], where)})

    @property
    def reads_pixels(self) -> bool:
        """Whether it trains end to end."""
        return self.experiment.train.mode == "end-to-end"

    def contents(self, cache: Cache, split: str) -> Contents:
        """What of a split can be read in its mode: the features that are there, or the videos."""
        if not self.reads_pixels:
            return cache.contents(split)
        from .live_batches import LivePixels

        level, sampling = cache.recipe.visual.levels[-1].name, Sampling(cache.recipe.fps)
        return LivePixels(cache, split, sampling, None, level, Path(self.sources["videos"])).contents()

    def run(self, folder: Path, cache: Cache, device: torch.device, ranks: Ranks = ALONE) -> Run:
        """The run that answers this, not yet resumed. ``cache``: the one that is named here, opened."""
        from .state import Run

        init = None if self.init is None else Path(self.init)
        sources = {**self.sources, "videos": self.sources.get("videos") and Path(self.sources["videos"])}
        return Run(folder, cache, self.experiment, self.split, device, sources, init, ranks)


def repeated(ctx: click.Context, request: RunRequest, given: dict[str, Any]) -> RunRequest:
    """A recorded request, at other places if they are given. Raises UsageError for any other option."""
    typed = {n for n in given if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
    if wrong := sorted(typed - set(PLACES)):
        name = {"assignments": "set"}.get(wrong[0], wrong[0].replace("_", "-"))
        raise click.UsageError(f"--{name} does not go with --from-record: the record says")
    moved = {name: placed(name, given[name]) for name in typed}
    cache, init = moved.pop("cache_path", request.cache), moved.pop("init", request.init)
    return replace(request, cache=str(cache), init=init, sources={**request.sources, **moved})


def placed(name: str, given: Any) -> str | None:
    """A place as `place` says it; of several encoders side by side, the names or the weights of each."""
    one = encoder_place if name in ("backbone", "text_encoder") else place
    if name in ("backbone", "backbone_weights") and "," in str(given) and not Path(given).exists():
        return ",".join((one(part.strip()) or "") if part.strip() else "" for part in given.split(","))
    return one(given)


def place(given: Any) -> str | None:
    """Where something is, so that it can be found from any folder; 'random' and URLs are no files."""
    if given is None or given == "random" or "://" in str(given):
        return None if given is None else str(given)
    return str(Path(given).absolute())


def encoder_place(name: str | None) -> str | None:
    """The name of an encoder, its folder or file as `place` says it."""
    kind, _, folder = (name or "").partition(":")
    file, _, kept = (name or "").rpartition(":")
    if kind == "hf":
        return f"hf:{place(folder)}"
    return f"{place(file)}:{kept}" if file.endswith(".py") else name
