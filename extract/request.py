"""The request of an extraction: its settings, defaults and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..cache.kept import DTYPES, KEPT
from ..cache.stores.kinds import STORES
from ..config import AT_LEAST_1, POSITIVE, setting
from ..objects import Location
from ..options import AMP, Finite, choose_device, options
from ..requested import Request, one_of, option
from .datasets.table import DATASETS
from .launchers.table import LAUNCHERS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Extraction(Request):
    """The settings that do not depend on the machine."""

    dataset: str = one_of(DATASETS)
    annotations: Path
    out: Location
    vidor: Path | None = None
    videos: Path | None = None
    """None: the dataset's usual place."""
    splits: Sequence[str] | None = None
    """None: all splits of the dataset."""
    annotation_set: str | None = None
    """The name of these annotations in the cache; None: the dataset's."""
    backbone: str = "resnet101"
    """Several, separated by commas, are stored side by side."""
    backbone_weights: str | None = None
    text_encoder: str | None = None
    """None: tiny with the backbone tiny, else roberta-base."""
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0
    resolution: int = setting(224, AT_LEAST_1)
    """Short side of the frames, pixels."""
    levels: str = one_of(KEPT, "roi")
    dtype: str = one_of(DTYPES, "float16")
    amp: str = one_of(AMP, "none")
    views: int = setting(1, AT_LEAST_1)
    views_seed: int = 0
    store: str = one_of(STORES, "zarr")
    batch_frames: int = setting(32, AT_LEAST_1)
    """Frames encoded at once."""
    on_bad_record: str = one_of(("raise", "skip"), "raise")
    strict: bool = False
    """Stop at the first video that cannot be read."""
    retry_skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(Extraction):
    """All settings of `stvg extract` and `stvg.extract_features`."""

    fps: float = setting(5.0, POSITIVE)
    """Sampled frames per second of video."""
    max_frames: int = setting(100, AT_LEAST_1)
    """Longer clips are thinned to this many frames."""
    devices: str | None = None
    """Names separated by commas; None: the best one."""
    processes: int = setting(1, AT_LEAST_1)
    """Number of extractor processes, at least one per device."""
    launcher: str = one_of(LAUNCHERS, "local")
    shard: str = "1/1"
    """``i/n``, or ``auto``."""
    decoders: int | None = setting(None, AT_LEAST_1)
    """Decoding processes of each extractor; None: 1 on a CPU, 4 on a GPU."""
    decode_timeout: float = setting(120.0, POSITIVE)
    """Seconds without another frame after which a video is skipped."""
    decoder_memory: float = setting(4.0, POSITIVE)
    """Limit of a decoding process's address space, GiB."""

    def targets(self, number: int | None = None) -> list[torch.device]:
        """The named devices. ``number``: the index of this process's GPU, used if no device is named."""
        names = [None] if self.devices is None else self.devices.split(",")
        return [own_device(choose_device(name), number) for name in names]


def own_device(device: torch.device, number: int | None) -> torch.device:
    """GPU ``number`` (modulo their count) if ``device`` is CUDA without an index; else ``device``."""
    import torch

    if device.type != "cuda" or device.index is not None or number is None:
        return device
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))


dataset_option = option(ExtractRequest, "dataset", help="Annotation format.")
sampling_options = options(
    option(ExtractRequest, "fps", type=Finite(above=0), help="Sampled frames per second of video."),
    option(
        ExtractRequest,
        "max_frames",
        type=click.IntRange(min=1),
        help="Maximum frames of a clip; longer ones are thinned.",
    ),
)
