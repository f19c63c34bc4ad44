"""The state of a training run, its checkpoints and its folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...cache.batches.dataset import CachedDataset
from ...cache.contents import Contents
from ...cache.index import Cache
from ...cache.schema import Recipe
from ...cache.statistics import channel_statistics
from ...errors import CheckpointError, UsageError
from ..checkpoint import (
    EMA,
    GROUPS,
    Checkpoint,
    checksum,
    load_checkpoint,
    load_into,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from ..initial import start_from
from ..losses import Criterion
from ..model import FeatureHead, Grounder
from ..model_config import FeatureFacts
from ..seen import Seen
from ..settings import Experiment
from ..table import build_model, row_of
from .owner import require_owned
from .ranks import ALONE, Ranks
from .resumption import Standing, require_same
from .schedule import steps_of

if TYPE_CHECKING:
    from .live_encoders import LiveEncoders

log = logging.getLogger(__name__)


def feature_facts(recipe: Recipe, mode: str) -> FeatureFacts:
    """Properties of the features that a head trains on: the levels that the cache keeps, or all levels from pixels.

    Raises UsageError for a mode that reads features where the cache has none.
    """
    if recipe.bare and mode != "end-to-end":
        raise UsageError(
            "this cache keeps no features",
            found="--levels none",
            effect="nothing was trained",
            hint="--mode end-to-end --videos DIR, or a cache extracted with --levels roi",
        )
    levels = recipe.visual.levels if mode == "end-to-end" else recipe.levels
    return FeatureFacts(levels, recipe.text.width, recipe.roi_size)


class Run:
    """The state of a training run: model, optimiser, data and progress, and the folder of its checkpoints."""

    def __init__(
        self,
        folder: Path,
        cache: Cache,
        experiment: Experiment,
        split: str,
        device: torch.device,
        sources: Mapping[str, Any] | None = None,
        init: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """``sources``: fields of `live_encoders.Sources`, for modes that train encoders. ``init``: see `start_from`.

        ``ranks``: the processes that share this run; the batch size counts all of them.
        """
        t = experiment.train
        if t.batch_size < ranks.count:
            raise UsageError(
                f"{ranks.count} ranks cannot share a batch of {t.batch_size}", hint="--set train.batch_size"
            )
        self.ranks = ranks
        self.folder, self.cache, self.experiment, self.device = folder, cache, experiment, device
        features = feature_facts(cache.recipe, t.mode)
        memory, further = experiment.model.levels(features.levels)
        self.level, targets = memory.name, [level.name for level in further]
        self.encoders: LiveEncoders | None = None
        self.videos: Path | None = None
        if t.mode != "cached":  # encoders and video decoding are imported only where needed
            from .live_encoders import Sources, build_encoders

            chosen = Sources(**(sources or {}))
            self.videos = chosen.videos
            self.encoders = build_encoders(t.mode, cache, self.level, targets, chosen)
            self.encoders.set_trained(backbone=t.lr_backbone > 0, text=t.lr_text > 0)
        self.dataset = self.open_split(split, targets)
        self.data = self.dataset.contents()
        self.held_out: Contents | None = None
        """The samples that `train` validates on, by which the best weights are selected."""
        head = build_model(experiment.model, features, t.seed, experiment.loss.scores)
        head.recompute(t.recompute)
        if self.encoders is not None:
            self.encoders.recompute = t.recompute
        if experiment.model.standardise:
            self.standardise(head)
        self.start = None if init is None else start_from(head, init)
        self.model = Grounder(head, self.encoders).to(device)
        self.ema = EMA(self.model, t.ema)
        self.optimizer = torch.optim.AdamW(self.parameter_groups(), weight_decay=t.weight_decay, fused=True)
        self.criterion = Criterion(experiment.loss)
        if not t.accumulate:
            size, count = self.divided_batch()
            t = replace(t, batch_size=size, accumulate=count)
            self.experiment = replace(experiment, train=t)
        self.recipe = cache.recipe
        self.steps_per_epoch, self.total_steps = steps_of(len(self.dataset), t)
        self.step = 0
        self.best = -math.inf
        self.validated = 0
        """The step of the last validation."""
        self.changed = ""
        """Settings that differ from those of the run that is resumed."""

    def divided_batch(self) -> tuple[int, int]:
        """``batch_size`` and ``accumulate`` where ``accumulate`` is 0: those of the run's checkpoint, or what fits the
        device."""
        t = self.experiment.train
        if t.mode != "end-to-end":
            return t.batch_size, 1
        if (found := self.newest(())) is not None:
            before = found[1].facts["experiment"]["train"]
            if before["batch_size"] * before["accumulate"] == t.batch_size:
                return before["batch_size"], before["accumulate"]
        from .batch_size import fitting_share

        share = min(self.ranks.gather(fitting_share(self)))
        return share, t.batch_size // share

    def open_split(self, split: str, targets: Sequence[str] | None = None) -> CachedDataset:
        """A split as read in this run's mode. ``targets`` None: for inference."""
        sampling = self.experiment.model.sampling(self.cache.recipe.fps, training=targets is not None)
        if self.encoders is None:
            return CachedDataset(self.cache, split, sampling, targets, self.level)
        from .live_batches import open_live_split

        return open_live_split(self.encoders.mode, self.cache, split, sampling, targets, self.level, self.videos)

    def standardise(self, head: FeatureHead) -> None:
        """Give a head the mean and standard deviation of its training features."""
        videos = dict.fromkeys(self.cache.samples.video_ids[row] for row in self.dataset.rows)
        for level in (head.memory_level, *head.region_levels):
            standard = head.standard(level.name)
            assert standard is not None
            standard.set(*map(torch.from_numpy, channel_statistics(self.cache, list(videos), level)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters of the head and of every encoder that trains, each group with its learning rate."""
        t = self.experiment.train
        late = row_of(self.experiment.model.head).late
        of_late = list(getattr(self.model.head, late).parameters()) if late else []
        apart = set(map(id, of_late))
        rest = [p for p in self.model.head.parameters() if id(p) not in apart]
        groups = [{"name": "head", "params": rest, "lr": t.lr}]
        groups += [{"name": "late", "params": of_late, "lr": t.lr}] if late else []
        rates = {"backbone": t.lr_backbone, "text": t.lr_text}
        live = self.encoders.groups() if self.encoders is not None else {}
        return groups + [{"name": k, "params": p, "lr": rates[k]} for k, p in live.items()]

    def open_validation(self, split: str) -> CachedDataset:
        """Open the split that selects the best weights, and record it in the checkpoint."""
        dataset = self.open_split(split)
        self.held_out = dataset.contents()
        return dataset

    @cached_property
    def seen(self) -> Seen:
        """A summary of the training data, stored for later questions about other data."""
        return Seen.of(self.cache, self.dataset.split, self.dataset.rows)

    def facts(self, selected: bool = False) -> dict[str, Any]:
        """The facts that a checkpoint stores besides tensors. ``selected``: these weights were the best on
        ``held_out``."""
        held_out = self.held_out and {
            "dataset": self.cache.annotations.dataset,
            "split": self.held_out.split,
            "samples": self.held_out.samples,
            "digest": self.held_out.digest,
        }
        return {
            "step": self.step,
            "validated": self.validated,
            "best": self.best if math.isfinite(self.best) else None,
            "experiment": asdict(self.experiment),
            "features": asdict(self.model.head.features),
            "encoders": None if self.encoders is None else self.encoders.facts(),
            "fingerprint": self.recipe.fingerprint,
            "recipe": self.recipe.to_json(),
            "annotations": self.cache.annotations.to_json(),
            "split": self.dataset.split,
            "started_from": None if self.start is None else self.start.sha256,
            "data": self.data.to_json(),
            "seen": asdict(self.seen),
            "held_out": held_out,
            "selected": selected,
        }

    def digest(self) -> int:
        """The crc32c of the weights and the averaged weights."""
        tensors = [*self.model.state_dict().values(), *self.ema.state_dict().values()]
        return checksum(memoryview(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()) for t in tensors)

    def save(self, name: str = "last", selected: bool = False) -> Path:
        """Write ``<name>.safetensors``: the whole state for ``last``, the averaged weights only for any other name.

        The existing ``last`` becomes ``previous``. ``selected`` as in `facts`. Only the first rank writes.
        """
        path = self.folder / f"{name}.safetensors"
        if not self.ranks.first:
            return path
        require_owned(self.folder)
        tensors = {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        keep = None
        if name == "last":
            tensors |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer, self.model).items()}
            keep = self.folder / "previous.safetensors"
        save_checkpoint(path, self.facts(selected), tensors, keep)
        return path

    def resume(self) -> bool:
        """Resume from ``last.safetensors``, or from ``previous.safetensors`` where that is damaged; False if there is
        none.

        ``changed`` is set to the permitted differences in settings. Raises CheckpointError where the checkpoint belongs
        to another experiment, cache or split, was trained on other data, or both files are damaged.
        """
        found = self.newest()
        if found is None:
            return False
        path, saved = found
        facts, names = self.facts(), [g["name"] for g in self.optimizer.param_groups]
        standing = Standing(saved.facts["step"], self.steps_per_epoch, self.experiment.train, names)
        self.changed = require_same(self.folder, saved.facts, facts, standing, self.data)
        load_into(self.model, saved.group("model"), path)
        self.ema.load(saved.group("ema"))
        load_optimizer(self.optimizer, self.model, saved.group("optimizer"))
        self.step = saved.facts["step"]
        same = (
            saved.facts.get("held_out", facts["held_out"]) == facts["held_out"]
        )  # scores on other samples do not count
        self.validated = saved.facts["validated"] if same else 0
        self.best = saved.facts["best"] if same and saved.facts["best"] is not None else -math.inf
        return True

    def newest(self, groups: tuple[str, ...] = GROUPS) -> tuple[Path, Checkpoint] | None:
        """The newest undamaged checkpoint, and its path. ``groups``: see `load_checkpoint`."""
        damaged: CheckpointError | None = None
        for path in (self.folder / "last.safetensors", self.folder / "previous.safetensors"):
            if not path.exists():
                continue
            try:
                saved = load_checkpoint(path, groups)
            except CheckpointError as error:
                damaged = damaged or error
                continue
            if damaged:
                step = saved.facts["step"]
                log.warning(
                    "%s (%s); going on from %s, step %d", damaged.message, damaged.facts["found"], path.name, step
                )
            return path, saved
        if damaged:
            raise damaged
        return None
