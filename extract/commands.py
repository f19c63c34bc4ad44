"""``stvg extract``."""

from __future__ import annotations

import os
from typing import Any

import click

from ..console import Progress
from ..options import (
    FOLDER,
    OUT_CACHE,
    annotations_option,
    encoder_options,
    log_option,
    say,
    vidor_option,
)
from ..requested import option
from .request import ExtractRequest, dataset_option, sampling_options

ENDED = 75
"""Exit status of an extraction that a signal ended: EX_TEMPFAIL, try again."""


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
    help="The cache to fill: a folder, or s3://bucket/folder. Repeat the command to continue.",
)
@option(
    ExtractRequest,
    "backbone",
    metavar="NAME",
    help="Visual encoder: resnet101, timm:NAME, hf:FOLDER, file.py:Class …; see stvg encoder list. Several, with "
    "commas between them, are stored side by side.",
)
@click.option(
    "--text-encoder",
    metavar="NAME",
    help="Text encoder: roberta-base, hf:FOLDER, file.py:Class …  [tiny with --backbone tiny, else roberta-base]",
)
@click.option("--annotation-set", metavar="NAME", help="Name of these annotations in the cache.  [the dataset's name]")
@encoder_options
@option(ExtractRequest, "resolution", type=int, help="Short side of the frames, in pixels.")
@sampling_options
@option(
    ExtractRequest,
    "levels",
    help="What to store of the levels before the last: regions of targets (roi), maps (full), nothing (last). none: no "
    "features at all, for training end to end.",
)
@option(
    ExtractRequest,
    "views",
    type=click.IntRange(min=1),
    help="Number of stored renditions of every video: the evaluation's geometry, then random resizes and crops.",
)
@option(ExtractRequest, "views_seed", type=int, help="Seed of the random renditions.")
@option(
    ExtractRequest,
    "dtype",
    help="Data type of stored features; uint8 has scales for each channel and a few frames.",
)
@option(
    ExtractRequest,
    "amp",
    help="Precision of the backbone: float32 (none); tf32, if the GPU has it; bfloat16. Features differ by rounding.",
)
@option(ExtractRequest, "store")
@option(ExtractRequest, "batch_frames", type=int, help="Frames encoded at once.")
@option(
    ExtractRequest,
    "on_bad_record",
    help="Faults in the annotation: raise an error, or skip the record.",
)
@option(ExtractRequest, "strict", help="Stop at the first video that cannot be read.")
@option(ExtractRequest, "retry_skipped", help="Retry the videos that could not be read before.")
@click.option("--dry-run", is_flag=True, help="Print an estimate of time and size after a short probe; write nothing.")
@click.option(
    "--device",
    "--devices",
    "devices",
    metavar="NAMES",
    help="cpu, cuda, cuda:1 …, or several: cuda:0,cuda:1.  [cuda if there is one]",
)
@option(
    ExtractRequest,
    "processes",
    type=click.IntRange(min=1),
    show_default="one for each device",
    help="Number of extractor processes; devices are assigned in turn.",
)
@option(
    ExtractRequest,
    "launcher",
    help="Where they run: on this machine, or as tasks of a Ray cluster.",
)
@option(
    ExtractRequest,
    "shard",
    metavar="I/N|auto",
    help="Extract only this share of the videos. auto: from the environment of Slurm, SkyPilot or torchrun.",
)
@option(
    ExtractRequest,
    "decoders",
    type=click.IntRange(min=1),
    show_default="1 on a cpu, 4 on a gpu",
    help="Decoding processes of each extractor.",
)
@option(
    ExtractRequest,
    "decode_timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds without another frame after which a video is skipped.",
)
@option(
    ExtractRequest,
    "decoder_memory",
    type=click.FloatRange(min=0, min_open=True),
    help="Limit of a decoding process's address space, GiB.",
)
@log_option
def extract(splits: tuple[str, ...], dry_run: bool, **chosen: Any) -> None:
    """Run the frozen encoders once and fill a cache. Interrupt it freely: finished videos are kept.

    Repeat it with other or more annotations, and it computes what is missing: videos, frames, regions, sentences. After
    SIGTERM or SIGUSR1 it writes the videos in flight and exits with status 75: repeat the command to continue.

    \b
    Example: stvg extract --dataset vidstg --annotations vidstg --videos vidor/video --out cache/vidstg
    """
    from .launchers.parts import assigned_part

    request = ExtractRequest(splits=list(splits) or None, **chosen)
    given = assigned_part(request.shard, os.environ)
    if given.why:
        say(given.why, err=True)
    with Progress("extract", "videos", doing="reading annotations and weights", hidden=given.quiet) as bar:
        from .estimate import estimate  # torch takes seconds to load: the first line is written before
        from .job import ExtractJob
        from .launchers.requested import extract_requested
        from .progress import ExtractionProgress, faults_of, summary_of

        expected = None
        if dry_run:
            devices = request.targets(given.device)
            job = ExtractJob.of(request, given.part, devices[0])
            expected = estimate(job, max(request.processes, len(devices)))
        else:
            report, dropped = extract_requested(request, given, ExtractionProgress(bar))
    if expected:
        say("\n".join(expected.lines()))
        return
    out = request.out
    for line in faults_of(report, dropped, out):
        say(line, err=True)
    say("\n".join(summary_of(report, dropped, out)))
    if request.levels == "none":
        say("the cache keeps no features: train with --mode end-to-end --videos DIR, which reads the videos")
    if report.ended:
        raise SystemExit(ENDED)
    if report.skipped or report.outdated:
        raise SystemExit(3)
