"""What an extraction can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..cache.kept import DTYPES, KEPT
from ..cache.stores.kinds import STORES
from ..objects import Location
from ..options import AMP, Finite, choose_device, options
from ..requested import Request, one_of, option
from .datasets.table import DATASETS
from .launchers.table import LAUNCHERS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Extraction(Request):
    """What decides what is written, on whatever machine it runs."""

    dataset: str = one_of(DATASETS)
    annotations: Path
    out: Location
    vidor: Path | None = None
    videos: Path | None = None
    """None: the dataset's usual place."""
    splits: Sequence[str] | None = None
    """None: every split that is found."""
    annotation_set: str | None = None
    """The name of these annotations in the cache; None: the dataset's."""
    backbone: str = "resnet101"
    """Several, divided by commas, are stored side by side."""
    backbone_weights: str | None = None
    text_encoder: str | None = None
    """None: tiny beside the backbone tiny, else roberta-base."""
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0
    resolution: int = 224
    """Short side of the frames, pixels."""
    levels: str = one_of(KEPT, "roi")
    dtype: str = one_of(DTYPES, "float16")
    amp: str = one_of(AMP, "none")
    views: int = 1
    views_seed: int = 0
    store: str = one_of(STORES, "zarr")
    batch_frames: int = 32
    """Frames encoded at once."""
    on_bad_record: str = one_of(("raise", "skip"), "raise")
    strict: bool = False
    """Stop at the first video that cannot be read."""
    retry_skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractRequest(Extraction):
    """All that is said to `stvg extract` and `stvg.extract_features`."""

    fps: float = 5.0
    """Frames looked at per second of video."""
    max_frames: int = 100
    """Longer clips are thinned to this many."""
    devices: str | None = None
    """Names divided by commas; None: the best one."""
    processes: int = 1
    """At least one for each device."""
    launcher: str = one_of(LAUNCHERS, "local")
    shard: str = "1/1"
    """``i/n``, or ``auto``."""
    decoders: int | None = None
    """Decoding processes of each extractor; None: 1 on a processor, 4 on a GPU."""
    decode_timeout: float = 120.0
    """Seconds in which a decoder passes no frame before its video is given up."""
    decoder_memory: float = 4.0
    """GiB of address space a decoding process may take."""

    def targets(self, number: int | None = None) -> list[torch.device]:
        """The devices that are named. ``number``: of several GPUs that of this process, where none is named."""
        names = [None] if self.devices is None else self.devices.split(",")
        return [own_device(choose_device(name), number) for name in names]


def own_device(device: torch.device, number: int | None) -> torch.device:
    """Of several GPUs the one of this process, where the user named none."""
    import torch

    if device.type != "cuda" or device.index is not None or number is None:
        return device
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))


dataset_option = option(ExtractRequest, "dataset", help="Annotation format.")
sampling_options = options(
    option(ExtractRequest, "fps", type=Finite(above=0), help="Frames looked at per second of video."),
    option(ExtractRequest, "max_frames", type=click.IntRange(min=1), help="Longer clips are thinned to this many."),
)
