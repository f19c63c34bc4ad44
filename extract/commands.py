"""``stvg extract``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..cache.stores.kinds import STORES
from ..console import Progress
from ..options import (
    AMP,
    FOLDER,
    OUT_CACHE,
    RowOf,
    annotations_option,
    choose_device,
    encoder_options,
    sampling_options,
    say,
    vidor_option,
)
from .datasets.commands import dataset_option
from .launchers.table import LAUNCHERS, launch

if TYPE_CHECKING:
    import torch

ENDED = 75
"""Exit status of an extraction that was asked to end: EX_TEMPFAIL, try again."""


@click.command()
@dataset_option
@annotations_option
@vidor_option
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos.  [the dataset's usual place]")
@click.option("--split", "splits", multiple=True, help="May be repeated.  [every split found]")
@click.option(
    "--out",
    type=OUT_CACHE,
    required=True,
    metavar="DIR|URL",
    help="The cache to fill: a folder, or s3://bucket/folder. Repeat the command to go on.",
)
@click.option(
    "--backbone",
    metavar="NAME",
    default="resnet101",
    show_default=True,
    help="Encoder of pictures: resnet101, timm:NAME, hf:FOLDER, file.py:Class …; see stvg encoder list. Several, divided "
    "by commas, are stored side by side.",
)
@click.option(
    "--text-encoder",
    metavar="NAME",
    help="Encoder of sentences: roberta-base, hf:FOLDER, file.py:Class …  [tiny with --backbone tiny, else roberta-base]",
)
@click.option(
    "--annotation-set", metavar="NAME", help="What these annotations are called in the cache.  [the dataset's name]"
)
@encoder_options
@click.option("--resolution", type=int, default=224, show_default=True, help="Short side of the frames, in pixels.")
@sampling_options
@click.option(
    "--levels",
    type=click.Choice(["roi", "full", "last"]),
    default="roi",
    show_default=True,
    help="What is kept of the levels before the last: regions of targets, maps, nothing.",
)
@click.option(
    "--views",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stored renditions of every video: the evaluation's geometry, then random resizes and crops.",
)
@click.option("--views-seed", type=int, default=0, show_default=True, help="Seed of those.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "bfloat16", "uint8"]),
    default="float16",
    show_default=True,
    help="How features are stored; uint8 with a scale for every channel and few frames.",
)
@click.option(
    "--amp",
    type=click.Choice(AMP),
    default="none",
    show_default=True,
    help="What the backbone computes in: float32; tf32, on GPUs that have it; bfloat16. Features differ by rounding.",
)
@click.option("--store", type=RowOf(STORES), default="zarr", show_default=True)
@click.option("--batch-frames", type=int, default=32, show_default=True, help="Frames encoded at once.")
@click.option(
    "--on-bad-record",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What to do about faults in the annotation.",
)
@click.option("--strict", is_flag=True, help="Stop at the first video that cannot be read.")
@click.option("--retry-skipped", is_flag=True, help="Try the videos again that could not be read last time.")
@click.option("--dry-run", is_flag=True, help="Say what it will cost, after a short probe; write nothing.")
@click.option(
    "--device",
    "--devices",
    "devices",
    metavar="NAMES",
    help="cpu, cuda, cuda:1 …, or several: cuda:0,cuda:1.  [cuda if there is one]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default="one for each device",
    help="Extractors at work; devices are given to them in turn.",
)
@click.option(
    "--launcher",
    type=RowOf(LAUNCHERS),
    default="local",
    show_default=True,
    help="Where they work: on this machine, or as tasks of a Ray cluster.",
)
@click.option(
    "--shard",
    metavar="I/N|auto",
    default="1/1",
    show_default=True,
    help="Only this share of the videos. auto: as Slurm, SkyPilot or torchrun number their processes.",
)
@click.option(
    "--decoders",
    type=click.IntRange(min=1),
    default=None,
    show_default="1 on a cpu, 4 on a gpu",
    help="Decoding processes of each extractor.",
)
@click.option(
    "--decode-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds in which a decoder passes no frame before its video is given up.",
)
@click.option(
    "--decoder-memory",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="GiB of address space a decoding process may take.",
)
def extract(
    out: Path, fps: float, max_frames: int, splits: tuple[str, ...], processes: int, launcher: str, **chosen: Any
) -> None:
    """Run the frozen encoders once and fill a cache. Interrupt it freely: finished videos are kept.

    Repeated with other or more annotations, it computes what is missing: videos, frames, regions, sentences. SIGTERM and
    SIGUSR1 end it once the videos in flight are written, with exit status 75: repeat the command to go on.

    \b
    Example: stvg extract --dataset vidstg --annotations vidstg --videos vidor/video --out cache/vidstg
    """
    from .launchers.parts import assigned_part

    given = assigned_part(chosen.pop("shard"), os.environ)
    if given.why:
        say(given.why, err=True)
    with Progress("extract", "videos", doing="reading annotations and weights", hidden=given.quiet) as bar:
        from ..cache.sampling import Sampling  # torch takes seconds to load: the first line is written before
        from .estimate import estimate
        from .job import ExtractJob
        from .progress import ExtractionProgress, faults_of, summary_of
        from .video.decoders import Settings

        dry_run, names = chosen.pop("dry_run"), chosen.pop("devices")
        devices = [choose_device(name) for name in ([None] if names is None else names.split(","))]
        devices = [own_device(device, given.device) for device in devices]
        decoding = Settings(
            processes=chosen.pop("decoders") or (1 if devices[0].type == "cpu" else 4),
            timeout=chosen.pop("decode_timeout"),
            memory=int(chosen.pop("decoder_memory") * 2**30),
        )
        job = ExtractJob(
            out=out,
            sampling=Sampling(fps, max_frames),
            splits=list(splits) or None,
            device=devices[0],
            part=given.part,
            decoding=decoding,
            **chosen,
        )
        expected = estimate(job, max(processes, len(devices))) if dry_run else None
        if expected is None:
            report, dropped = launch(job, launcher, devices, processes, ExtractionProgress(bar))
    if expected:
        say("\n".join(expected.lines()))
        return
    for line in faults_of(report, dropped, out):
        say(line, err=True)
    say("\n".join(summary_of(report, dropped, out)))
    if report.ended:
        raise SystemExit(ENDED)
    if report.skipped or report.outdated:
        raise SystemExit(3)


def own_device(device: torch.device, number: int | None) -> torch.device:
    """Of several GPUs the one of this process, where the user named none."""
    import torch

    if device.type != "cuda" or device.index is not None or number is None:
        return device
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))
