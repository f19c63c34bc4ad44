"""The options of a training run, and the command line options of every command that trains, which are made from
them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import UsageError
from ...options import FOLDER, Decorator, annotation_set_option, encoder_names, encoder_options, options
from ...requested import MODES, PROTOCOL_HELP, PROTOCOLS, EncoderPlaces, one_of, option
from ..presets import presets

if TYPE_CHECKING:
    from ...cache.index import Cache
    from ..settings import Experiment
    from .request import RunRequest


@dataclass(frozen=True)
class TrainRequest(EncoderPlaces):
    """The options of a run before a cache is opened."""

    preset: str
    assignments: tuple[str, ...] = ()
    mode: str | None = one_of(MODES, None)
    videos: Path | None = None
    init: Path | None = None
    annotation_set: str | None = None
    split: str = "train"
    val_split: str | None = None
    protocol: str = one_of(PROTOCOLS, "tubedetr")

    @cached_property
    def experiment(self) -> Experiment:
        """All settings; ``assignments`` override ``mode``. Raises UsageError for invalid ones."""
        from ..settings import load_experiment

        mode = [f"train.mode={self.mode}"] if self.mode else []
        return load_experiment(self.preset, [*mode, *self.assignments])

    def request(self, cache: Cache, device: str) -> RunRequest:
        """The request for a cache. Raises UsageError for invalid settings, and where ``end-to-end`` lacks its
        videos."""
        from .request import PLACES, SOURCES, RunRequest, place, placed

        experiment = self.experiment
        if experiment.train.mode == "end-to-end":
            if self.videos is None:
                raise UsageError("training end to end needs --videos, the folder of the videos")
            if not self.videos.is_dir():
                raise UsageError(f"{self.videos} is not a folder of videos", hint="--videos DIR")
        if experiment.train.mode == "last-stage":
            require_one_encoder(cache)
        known = cache.annotations.splits
        if self.val_split not in (None, "none", *known):
            raise UsageError(f"{cache.path} has no split {self.val_split!r} to validate on", found=", ".join(known))
        # The test split is never the default: selecting the epoch on it biases its scores upwards.
        held_out = "val" in cache.samples.splits and self.split != "val"
        val_split = self.val_split or ("val" if held_out else "none")
        given = vars(self)
        return RunRequest(
            cache=str(place(cache.path)),
            experiment=experiment,
            split=self.split,
            val_split=val_split,
            protocol=self.protocol,
            device=device,
            annotation_set=cache.annotations.name,
            preset=self.preset,
            init=place(self.init),
            sources={name: placed(name, given[name]) if name in PLACES else given[name] for name in SOURCES},
        )


def require_one_encoder(cache: Cache) -> None:
    """Raises UsageError where several encoders side by side made the features: their last stages cannot be trained."""
    visual = cache.recipe.visual
    if len(visual.last_levels) > 1:
        raise UsageError(
            f"the last stage of several encoders cannot train: {cache.path} is of {visual.name}",
            expected="a cache of one encoder",
            effect="nothing was read or trained",
            hint="--mode end-to-end, or a cache of one of them",
        )


def run_options(preset: str, preset_help: str = "") -> Decorator:
    """The options of a run. ``preset``: the default preset. ``preset_help``: text appended to the names of all
    presets."""
    return options(
        click.option(
            "--preset",
            default=preset,
            show_default=True,
            help=f"{', '.join(presets())}, or a .yaml file{preset_help}.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="A.B=C",
            help="Override a setting, e.g. --set train.lr=1e-4. May be repeated.",
        ),
        option(
            TrainRequest,
            "mode",
            help="What trains besides the head: nothing, the text encoder, the backbone's last stage, or both encoders "
            "from pixels.  [the preset's: cached]",
        ),
        option(TrainRequest, "videos", type=FOLDER, metavar="DIR", help="Folder of the videos; for --mode end-to-end."),
        encoder_names,
        encoder_options,
        option(
            TrainRequest,
            "init",
            type=FOLDER,
            metavar="FILE",
            help="Start the head from these weights: a checkpoint of stvg train-head, whose averaged head is taken, or "
            "head.safetensors of stvg weights import.",
        ),
        annotation_set_option,
        option(TrainRequest, "split", help="Split to train on."),
        option(
            TrainRequest,
            "val_split",
            help="Split to validate on: best.safetensors is the epoch that scores best there, and its scores on this split "
            "say so. 'none': it is the last epoch.  [val, if the cache has it]",
        ),
        option(TrainRequest, "protocol", help=PROTOCOL_HELP),
    )
