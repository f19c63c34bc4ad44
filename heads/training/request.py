"""From options to a request: what a run is asked for, or what a record asks for again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from .record import Request

SOURCES = ("backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "weights_seed", "videos")
PLACES = ("cache_path", "init", "backbone", "backbone_weights", "text_encoder", "text_weights", "tokenizer", "videos")
"""What may lie elsewhere when a run is repeated. All of it but the videos and the tokenizer is compared by its hash."""


def requested(given: dict[str, Any], device: torch.device) -> Request:
    """What the options ask for, without a record."""
    from ...cache.index import Cache
    from ..experiment import load_experiment
    from .record import Request

    if given["cache_path"] is None:
        raise click.UsageError("--cache is needed: the cache to train from")
    mode = [f"train.mode={given['mode']}"] if given["mode"] else []
    experiment = load_experiment(given["preset"], [*given["assignments"], *mode])
    if experiment.train.mode == "end-to-end" and given["videos"] is None:
        raise click.UsageError("training end to end needs --videos, the folder of the videos")
    annotations = Cache.open(given["cache_path"], given["annotation_set"]).annotations
    split, splits = given["split"], annotations.splits
    # Never the test split of itself: the best of many epochs on it would be a score that was selected on it.
    val_split = given["val_split"] or ("val" if "val" in splits and split != "val" else "none")
    places = {name: placed(name, given[name]) for name in PLACES}
    return Request(
        cache=str(places["cache_path"]),
        experiment=experiment,
        split=split,
        val_split=val_split,
        protocol=given["protocol"],
        device=str(device),
        annotation_set=annotations.name,
        init=places["init"],
        sources={name: places.get(name, given[name]) for name in SOURCES},
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
    return encoder_place(given) if name in ("backbone", "text_encoder") else place(given)


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
