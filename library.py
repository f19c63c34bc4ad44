"""The public functions of ``import stvg``: the commands as Python functions, for notebooks and other programs.

Every function has the options of its command, with underscores in the names. It shows its progress on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache.index import Cache
from .config import flat
from .console import Progress
from .errors import UsageError
from .evaluate.ablation.request import PRESET
from .evaluate.grounding.request import Ground, Question
from .objects import Location, location
from .options import choose_device, say
from .outputs import naming_write_errors
from .requested import ENCODERS, names_of, require_known

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from .evaluate.ablation.run import Ablated
    from .evaluate.evaluation import Head
    from .evaluate.grounding.answers import Grounding
    from .evaluate.metrics import Scores

Place = str | PathLike[str]
Settings = Mapping[str, Any] | Sequence[str]
"""Settings by name, or texts ``name=value``."""


def open_cache(place: Place, annotation_set: str | None = None) -> Cache:
    """Open a cache in a folder or in object storage (``s3://bucket/folder``). The public name is ``stvg.open``.

    ``annotation_set``: name of the annotation set to select.  [the only set]
    Raises CacheError if there is no cache.
    """
    return Cache.open(location(fspath(place)), annotation_set)


def extract_features(
    dataset: str, annotations: Place, *, out: Place, device: str | None = None, **options: Any
) -> Cache:
    """Compute the features of a dataset that the cache at ``out`` lacks; see ``stvg extract``. Returns the cache.

    ``options``: ``videos``, ``splits``, ``backbone``, ``backbone_weights``, ``text_encoder``, ``fps``, ``max_frames``,
    ``resolution``, ``levels``, ``views``, ``dtype`` and the other fields of `extract.request.ExtractRequest`.
    Videos that cannot be read are left out and listed on stderr. With ``strict``, the first of them raises VideoError.
    SIGTERM and SIGUSR1 let it finish the videos in flight and raise KeyboardInterrupt, which Ctrl-C raises at once; what
    was extracted by then is kept.
    """
    from .extract.launchers.parts import assigned_part
    from .extract.launchers.requested import extract_requested
    from .extract.progress import ExtractionProgress, faults_of, summary_of
    from .extract.request import ExtractRequest

    require_known(options, names_of(ExtractRequest), "extract_features")
    options |= {name: Path(options[name]) for name in ("videos", "vidor") if options.get(name) is not None}
    where = location(fspath(out))
    request = ExtractRequest(dataset=dataset, annotations=Path(annotations), out=where, devices=device, **options)
    with Progress("extract", "videos", doing="reading annotations and weights") as bar:
        report, dropped = extract_requested(request, assigned_part(request.shard, os.environ), ExtractionProgress(bar))
    for line in (*faults_of(report, dropped, where), *summary_of(report, dropped, where)):
        say(line, err=True)
    report.raise_if_asked()
    return Cache.open(where, request.annotation_set or dataset)


def train(
    cache: Cache | Place,
    out: Place,
    *,
    preset: str = "paper",
    set: Settings | None = None,
    device: str | None = None,
    **options: Any,
) -> TrainedHead:
    """Train a head in the folder ``out``, or resume the run there; see ``stvg train-head``. Returns the best head.

    ``set``: settings, such as ``{"train.lr": 1e-4}`` or ``["train.lr=1e-4"]``. ``options``: ``mode``, ``videos``,
    ``init``, ``split``, ``val_split``, ``protocol``, and the names and weights of encoders.
    """
    from .evaluate.training import train_requested
    from .heads.training.options import TrainRequest
    from .heads.training.owner import owned
    from .heads.training.ranks import ALONE

    require_known(options, names_of(TrainRequest, but="assignments"), "train")
    options |= {name: Path(options[name]) for name in ("videos", "init") if options.get(name) is not None}
    assignments = assigned(set or {})
    opened, folder = opened_cache(cache, options.pop("annotation_set", None)), Path(out)
    asked = TrainRequest(preset, assignments, annotation_set=opened.annotation_set, **options)
    target = choose_device(device)
    with owned(folder, ALONE), naming_write_errors(folder):
        train_requested(asked.request(opened, str(target)), folder, target)
    encoders = {name: options[name] for name in ENCODERS if options.get(name) is not None}
    return load(folder / "best.safetensors", device, **encoders)


def load(checkpoint: Place, device: str | None = None, **encoders: Any) -> TrainedHead:
    """Load a trained head from a checkpoint, or from the folder of a run (its best checkpoint).

    ``encoders``: names and files of the encoders, to ground sentences in new videos. They are ``backbone``,
    ``backbone_weights``, ``text_encoder``, ``text_weights``, ``tokenizer`` and ``weights_seed``.
    Raises CheckpointError.
    """
    from .evaluate.evaluation import load_head
    from .weight_files import checkpoint_in

    require_known(encoders, ENCODERS, "load")
    given = {name: encoders.get(name, 0 if name == "weights_seed" else None) for name in ENCODERS}
    path = checkpoint_in(Path(checkpoint))
    return TrainedHead(load_head(path, choose_device(device), given), path, device, given)


@dataclass(frozen=True)
class TrainedHead:
    """A trained head, for evaluation on a cache and for grounding sentences in videos."""

    head: Head
    checkpoint: Path
    device: str | None
    encoders: dict[str, Any]

    def __repr__(self) -> str:
        config, recipe = self.head.model.head.config, self.head.recipe
        count = sum(p.numel() for p in self.head.model.parameters())
        read = f"{recipe.visual.name} ({self.head.model.head.memory_level.name}) and {recipe.text.name}"
        return f"TrainedHead {config.head}, {count:,} parameters, reads {read}: {self.checkpoint}"

    def evaluate(self, cache: Cache | Place, split: str = "test", **options: Any) -> Evaluation:
        """Scores on a split of a cache. Samples without features are left out and counted.

        ``options``: ``protocol``, ``max_frames``, ``batch_size``, ``shuffle_sentences`` and the other fields of
        `evaluate.scoring.HeadScoring`.
        """
        from .evaluate.scoring import HeadScoring

        require_known(options, names_of(HeadScoring, but="explain"), "evaluate")
        if options.get("videos") is not None:
            options["videos"] = Path(options["videos"])
        opened = opened_cache(cache)
        with Progress("evaluate", "sentences", doing="opening the split") as bar:
            asked = HeadScoring(split=split, **options)
            scored = asked.score(self.head, opened, choose_device(self.device), bar)
        return Evaluation(scored.scores, scored.dataset, split, self.checkpoint.parent.name)

    def ground(
        self, video: Place, *sentences: str, cache: Place | None = None, moments: int = Ground.moments
    ) -> Grounding:
        """Find the tube of each sentence in a video file. ``cache``, ``moments``: the options of ``stvg predict``.

        Raises UsageError, VideoError or CacheError, see `evaluate.grounding.predictor.Predictor`.
        """
        from .evaluate.grounding.predictor import open_predictor

        if not sentences or not all(isinstance(sentence, str) for sentence in sentences):
            raise UsageError(
                "one or more sentences are needed", expected='ground("street.mp4", "the man in red turns around")'
            )
        features = None if cache is None else location(fspath(cache))
        request = Ground(self.checkpoint, moments, features, self.device, **self.encoders)
        with Progress("predict", doing="reading the video"), open_predictor(request, self.head) as predictor:
            found = predictor.ground(Question(Path(video), sentences), moments)
        for line in found.doubts:
            say(line, err=True)
        return found


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split. The printed table includes published figures if the whole split was scored."""

    scores: Scores
    dataset: str
    split: str
    run: str

    def __repr__(self) -> str:
        return self.table()

    def table(self, style: str = "terminal") -> str:
        """The table as text. ``style``: ``terminal``, ``markdown``, ``latex`` or ``csv``."""
        from .evaluate.tables import format_table

        return format_table(self.scores, dataset=self.dataset, split=self.split, run=self.run, style=style)

    def to_frame(self, samples: bool = False) -> pandas.DataFrame:
        """Mean scores with one row per group; with ``samples``, one row per sample.

        Scores are fractions from 0 to 1.
        """
        import pandas

        if samples:
            return pandas.DataFrame([vars(sample) for sample in self.scores.samples])
        return pandas.DataFrame.from_dict(self.scores.groups, orient="index").rename_axis("group")

    def plot(self) -> Figure:
        """Plot the share of samples with at least a given tIoU and vIoU."""
        import numpy as np
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.add_subplot(xlabel="overlap", ylabel="share of samples with at least as much", ylim=(0, 1.02))
        for name in ("tIoU", "vIoU"):
            values = np.sort([getattr(sample, name) for sample in self.scores.samples])
            share = 1 - np.arange(len(values)) / max(1, len(values))
            axis.step(np.append(0, values), np.append(share, 0), where="pre", label=f"{name}, mean {values.mean():.3f}")
        axis.legend()
        return figure


def ablate(
    cache: Place | Cache,
    out: Place = "runs/ablation",
    *,
    tables: str | Sequence[str] = (),
    preset: str = PRESET,
    set: Settings | None = None,
    caches: Mapping[int, Place] | None = None,
    **options: Any,
) -> Ablated:
    """Train and score the rows of the paper's tables, or of a YAML file ``grid``; see ``stvg ablate --help``.

    ``tables``: names of the paper's tables. ``caches``: caches by resolution, for rows with another resolution.
    ``options``: ``seeds``, ``test_split``, ``devices``, ``launcher`` of `evaluate.ablation.request.AblateRequest`, and
    the options of `train`. Rows that are finished in ``out`` are not run again.
    """
    from .evaluate.ablation.request import AblateRequest
    from .evaluate.ablation.run import ablate_requested
    from .heads.training.options import TrainRequest

    own = [name for name in names_of(AblateRequest) if name not in ("caches", "asked", "out", "tables")]
    require_known(options, [*own, *names_of(TrainRequest, but="assignments")], "ablate")
    options |= {name: Path(options[name]) for name in ("videos", "init", "grid") if options.get(name) is not None}
    ours = {name: options.pop(name) for name in own if name in options}
    asked = TrainRequest(preset, assigned(set or {}), **options)
    named = (tables,) if isinstance(tables, str) else tuple(tables)
    places: dict[int | None, Location] = {None: place_of(cache)}
    places |= {size: place_of(each) for size, each in (caches or {}).items()}
    return ablate_requested(AblateRequest(caches=places, asked=asked, out=Path(out), tables=named, **ours))


def place_of(cache: Cache | Place) -> Location:
    """Location of a cache."""
    return cache.path if isinstance(cache, Cache) else location(fspath(cache))


def opened_cache(cache: Cache | Place, annotation_set: str | None = None) -> Cache:
    """An open cache with the given annotation set selected. Opens the cache if needed."""
    if not isinstance(cache, Cache):
        return open_cache(cache, annotation_set)
    return cache if annotation_set is None else Cache.open(cache.path, annotation_set)


def assigned(settings: Settings) -> tuple[str, ...]:
    """Settings as assignments ``name=value``: a mapping, also of groups, or a sequence of such texts.

    Raises UsageError for anything else.
    """
    if isinstance(settings, Mapping):
        return tuple(f"{name}={value}" for name, value in flat(settings).items())
    if isinstance(settings, str) or not isinstance(settings, Sequence) or not all(isinstance(s, str) for s in settings):
        expected = '{"train.lr": 1e-4, "model.d": 64} or ["train.lr=1e-4", "model.d=64"]'
        raise UsageError("set is neither a mapping nor a list of texts", expected=expected, found=repr(settings))
    return tuple(settings)
