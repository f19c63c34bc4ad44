"""From options to a request, and from a request to the run that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from ..settings import Experiment, experiment_of, load_experiment
from .ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from ...cache.index import Cache
    from .state import Run

SOURCES = ("backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "weights_seed", "videos")
PLACES = ("cache_path", "init", "backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "videos")
"""What may lie elsewhere when a run is repeated. All of it but the videos and the tokenizer is compared by its hash."""


@dataclass(frozen=True)
class Request:
    """What was asked for: places are absolute, and may be others when a run is repeated; all else may not."""

    cache: str
    experiment: Experiment
    split: str
    val_split: str
    protocol: str
    device: str
    annotation_set: str | None = None
    """The name of the annotation set; None: the only one."""
    init: str | None = None
    sources: dict[str, Any] = field(default_factory=dict)
    """Fields of `live_encoders.Sources`."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> Request:
        """Of what `dataclasses.asdict` gave. Raises UsageError for settings that are none, TypeError for other fields."""
        return cls(**{**stored, "experiment": experiment_of(stored["experiment"], where)})

    def run(self, folder: Path, cache: Cache, device: torch.device, ranks: Ranks = ALONE) -> Run:
        """The run that answers this, not yet resumed. ``cache``: the one that is named here, opened."""
        from .state import Run

        init = None if self.init is None else Path(self.init)
        sources = {**self.sources, "videos": self.sources.get("videos") and Path(self.sources["videos"])}
        return Run(folder, cache, self.experiment, self.split, device, sources, init, ranks)


@dataclass(frozen=True)
class Asked:
    """What the options of `run_options` say of a run, before a cache is known; of the same names."""

    preset: str
    assignments: tuple[str, ...] = ()
    mode: str | None = None
    videos: Path | None = None
    backbone: str | None = None
    backbone_weights: str | None = None
    text_encoder: str | None = None
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0
    init: Path | None = None
    annotation_set: str | None = None
    split: str = "train"
    val_split: str | None = None
    protocol: str = "tubedetr"

    @cached_property
    def experiment(self) -> Experiment:
        """All settings; ``assignments`` override ``mode``. Raises UsageError for what is none."""
        mode = [f"train.mode={self.mode}"] if self.mode else []
        return load_experiment(self.preset, [*mode, *self.assignments])

    def request(self, cache: Cache, device: str) -> Request:
        """What is asked for of a cache. Raises UsageError for settings that are none, and for videos that are not named."""
        experiment = self.experiment
        if experiment.train.mode == "end-to-end":
            if self.videos is None:
                raise UsageError("training end to end needs --videos, the folder of the videos")
            if not self.videos.is_dir():
                raise UsageError(f"{self.videos} is not a folder of videos", hint="--videos DIR")
        known = cache.annotations.splits
        if self.val_split not in (None, "none", *known):
            raise UsageError(f"{cache.path} has no split {self.val_split!r} to validate on", found=", ".join(known))
        # Never the test split of itself: the best of many epochs on it would be a score that was selected on it.
        held_out = "val" in cache.samples.splits and self.split != "val"
        val_split = self.val_split or ("val" if held_out else "none")
        given = vars(self)
        return Request(
            cache=str(place(cache.path)),
            experiment=experiment,
            split=self.split,
            val_split=val_split,
            protocol=self.protocol,
            device=device,
            annotation_set=cache.annotations.name,
            init=place(self.init),
            sources={name: placed(name, given[name]) if name in PLACES else given[name] for name in SOURCES},
        )


def repeated(ctx: click.Context, request: Request, given: dict[str, Any]) -> Request:
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
