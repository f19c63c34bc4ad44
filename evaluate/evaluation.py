"""Tubes and scores from a checkpoint and a cache. Also the validation during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cache.batches.dataset import CachedDataset
from ..cache.batches.order import inference_batches
from ..cache.index import Cache
from ..cache.sampling import Sampling
from ..cache.schema import Recipe, Tube
from ..config import build
from ..errors import CacheError, UsageError
from ..heads.checkpoint import load_checkpoint, load_into
from ..heads.decision import Reading
from ..heads.infer import predict, read
from ..heads.model import Grounder
from ..heads.model_config import FeatureFacts
from ..heads.seen import Seen
from ..heads.settings import Experiment, experiment_of
from ..heads.table import build_model, row_of
from ..heads.training.ranks import ALONE, Ranks
from .metrics import Scores, score

READ_AS_TRAINED = ("visual", "text", "fps", "resolution", "max_side", "decode", "amp")
"""Recipe fields, or groups of fields, that must equal those of the cache the head was trained on."""


@dataclass(frozen=True)
class Head:
    """A trained head and the facts needed to use it."""

    model: Grounder
    sampling: Sampling
    batch_size: int
    recipe: Recipe
    """Recipe of the cache it was trained on."""
    mode: str = "cached"
    """Training mode. If encoders were trained with the head, ``model`` includes them."""
    selected_on: tuple[str, str] | None = None
    """Dataset and split whose scores selected the epoch; None if the epoch was not selected by scores."""
    seen: Seen | None = None
    """Summary of the training data; None if the checkpoint does not contain it."""
    experiment: Experiment | None = None
    """All its settings."""

    def mark(self, scores: Scores, dataset: CachedDataset) -> Scores:
        """These scores; ``selected_on_this_split`` says whether the head's epoch was selected on the same split."""
        here = (dataset.cache.annotations.dataset, dataset.split)
        return replace(scores, selected_on_this_split=here == self.selected_on)


def load_head(path: Path, device: torch.device, encoders: Mapping[str, Any] | None = None) -> Head:
    """Load the averaged weights (EMA) of a checkpoint for inference.

    ``encoders``: locations of the encoders that were trained with the head; fields of `live_encoders.Sources`. Raises
    CheckpointError.
    """
    saved = load_checkpoint(path, groups=("ema",))
    experiment = experiment_of(saved.facts["experiment"], str(path))
    facts = build(FeatureFacts, saved.facts["features"], str(path))
    live = None
    if saved.facts["encoders"]:  # import video decoding and the encoders only when needed
        from ..heads.training.live_encoders import Sources
        from ..heads.training.trained_encoders import encoders_of

        live = encoders_of(saved.facts["encoders"], Sources(**(encoders or {})))
    model = Grounder(build_model(experiment.model, facts, scored=experiment.loss.scores), live)
    load_into(model, saved.group("ema"), path)
    recipe = Recipe.from_json(saved.facts["recipe"])
    sampling = experiment.model.sampling(recipe.fps)
    held_out = saved.facts.get("held_out") if saved.facts.get("selected") else None
    chosen = (held_out["dataset"], held_out["split"]) if held_out else None
    seen = Seen.from_json(saved.facts["seen"]) if saved.facts.get("seen") else None
    model, t = model.to(device).eval(), experiment.train
    return Head(model, sampling, t.batch_size, recipe, t.mode, chosen, seen, experiment)


def require_videos(path: Path, videos: Path | None) -> None:
    """Raise UsageError if a checkpoint was trained end to end and ``videos`` is not a folder. No weights are loaded."""
    mode = load_checkpoint(path, groups=()).facts["experiment"]["train"]["mode"]
    if mode == "end-to-end" and (videos is None or not videos.is_dir()):
        raise UsageError(
            f"{path} was trained end to end and reads pixels",
            expected="the folder of the videos",
            found=videos or "none",
            effect="nothing was loaded",
            hint="--videos DIR",
        )


def require_features(head: Head, recipe: Recipe, where: object) -> None:
    """Raise CacheError if the features of ``recipe`` differ from those this head was trained on."""
    differing = {
        k: values for k, values in head.recipe.differing(recipe).items() if k.partition(".")[0] in READ_AS_TRAINED
    }
    if differing:
        raise CacheError(
            f"{where}: other features than this head was trained on",
            **{name: f"trained on {mine!r}, found {theirs!r}" for name, (mine, theirs) in differing.items()},
            effect="nothing was predicted",
            hint="use the encoders and geometry the head's cache was extracted with",
        )


def open_split(head: Head, cache: Cache, split: str, videos: Path | None = None) -> CachedDataset:
    """Open a split of a cache for this head. Raises CacheError if the features are of another kind.

    Encoders, geometry and sampling rate must match those of the training cache. Dataset, dtype and stored levels may
    differ. ``videos``: the folder of the videos, for a head that was trained end to end.
    """
    require_features(head, cache.recipe, cache.path)
    sampling = replace(head.sampling, fps=cache.recipe.fps)
    level = head.model.head.memory_level.name
    if head.mode == "cached":
        return CachedDataset(cache, split, sampling, level=level)
    from ..heads.training.live_batches import open_live_split

    return open_live_split(head.mode, cache, split, sampling, None, level, videos)


def tubes_of(
    model: Grounder,
    dataset: CachedDataset,
    batch_size: int,
    device: torch.device,
    tick: Callable[[], None] | None = None,
) -> dict[int | str, Tube]:
    """One tube per sample of a dataset. Clips of more slots than the head's ``max_frames`` are read in windows.

    ``tick`` is called after every tube.
    """
    found: dict[int | str, Tube] = {}
    config = model.head.config
    batches = inference_batches(dataset, batch_size, config.max_frames, device, config.passes)
    for tube in predict(model, batches, device, row_of(config.head).join):
        found[tube.sample_id] = tube
        if tick:
            tick()
    return found


def readings_of(
    model: Grounder,
    dataset: CachedDataset,
    batch_size: int,
    device: torch.device,
    tick: Callable[[], None] | None = None,
    attention: bool = True,
) -> Iterator[Reading]:
    """Like `tubes_of`, but yields readings one by one, each with its evidence. The caller decides what to keep."""
    config = model.head.config
    batches = inference_batches(dataset, batch_size, config.max_frames, device, config.passes)
    for reading in read(model, batches, device, row_of(config.head).explain, attention):
        yield reading
        if tick:
            tick()


def score_split(dataset: CachedDataset, tubes: dict[int | str, Tube], protocol: str) -> Scores:
    """Scores of a split. Samples whose video is not in the cache are reported as missing."""
    table = dataset.cache.samples
    samples = (table[i] for i, s in enumerate(table.splits) if s == dataset.split)
    return score(samples, tubes, protocol=protocol, sampling=dataset.sampling, allow_missing=bool(dataset.missing))


def validation(
    dataset: CachedDataset, batch_size: int, device: torch.device, protocol: str, ranks: Ranks = ALONE
) -> Callable[[Grounder], dict[str, float]]:
    """A function that scores a model on a split: means over all samples, see `overall`.

    Every rank predicts its share of the samples. The tubes are gathered, so every rank returns the scores of all
    samples.
    """
    mine = dataset.part(ranks.index, ranks.count)

    def validate(model: Grounder) -> dict[str, float]:
        tubes = tubes_of(model, mine, max(1, batch_size // ranks.count), device) if len(mine) else {}
        found = {k: tube for part in ranks.gather(tubes) for k, tube in part.items()}
        return overall(score_split(dataset, found, protocol))

    return validate


def overall(scores: Scores) -> dict[str, float]:
    """m_tIoU, m_vIoU, vIoU@0.3 and vIoU@0.5: means over all scored samples, regardless of group."""
    tious = np.array([s.tIoU for s in scores.samples])
    vious = np.array([s.vIoU for s in scores.samples])
    return {
        "m_tIoU": float(tious.mean()),
        "m_vIoU": float(vious.mean()),
        "vIoU@0.3": float((vious > 0.3).mean()),
        "vIoU@0.5": float((vious > 0.5).mean()),
    }


def shuffle_sentences(dataset: CachedDataset, seed: int) -> None:
    """Pair every sample with another sample's sentence. A head that uses the sentence must then score low."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    shuffled = dataset.asking.copy()
    shuffled[order] = dataset.asking[np.roll(order, 1)]
    dataset.asking = shuffled
