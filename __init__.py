"""stvg: spatio-temporal video grounding from an offline feature cache.

For an untrimmed video and a sentence, find the tube: the time span of the described event, and a box around the
described object in every frame of it.

    cache = stvg.open("cache/vidstg")
    head = stvg.train(cache, out="runs/fsm", preset="paper")
    head.evaluate(cache, "test").table()

Submodules are imported on first use, so the import itself is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache.batches.dataset import CachedDataset as Dataset
    from .cache.index import Cache
    from .errors import StvgError
    from .evaluate.grounding.answers import Grounding
    from .evaluate.metrics import Scores
    from .library import Evaluation, TrainedHead, ablate, extract_features, load, train
    from .library import open_cache as open

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "Dataset",
    "Evaluation",
    "Grounding",
    "Scores",
    "StvgError",
    "TrainedHead",
    "ablate",
    "extract_features",
    "load",
    "open",
    "train",
]

_PLACES = {
    "Cache": "cache.index:Cache",
    "Dataset": "cache.batches.dataset:CachedDataset",
    "Evaluation": "library:Evaluation",
    "Grounding": "evaluate.grounding.answers:Grounding",
    "Scores": "evaluate.metrics:Scores",
    "StvgError": "errors:StvgError",
    "TrainedHead": "library:TrainedHead",
    "ablate": "library:ablate",
    "extract_features": "library:extract_features",
    "load": "library:load",
    "open": "library:open_cache",
    "train": "library:train",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'stvg' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f".{module}", __name__), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
