"""``stvg cache import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import Progress
from ..options import (
    FOLDER,
    OUT_CACHE,
    Finite,
    annotations_option,
    choose_device,
    say,
    tokenizer_option,
    vidor_option,
)
from ..requested import option
from .request import Extraction, dataset_option, sampling_options

if TYPE_CHECKING:
    from ..objects import Location


@click.command("import", short_help="Make a cache of features that were made elsewhere.")
@click.argument("folder", type=FOLDER)
@click.option("--name", required=True, help="Encoder that made the features; the cache records imported:NAME.")
@dataset_option
@annotations_option
@vidor_option
@click.option("--split", "splits", multiple=True, help="May be repeated.  [every split found]")
@click.option("--out", type=OUT_CACHE, required=True, metavar="DIR|URL", help="The cache to fill.")
@click.option("--feature-fps", type=Finite(above=0), help="Features per second, from second 0 on.")
@click.option("--stride", type=Finite(above=0), help="Source frames from one feature to the next.")
@click.option(
    "--offset", type=Finite(), default=0.0, show_default=True, help="With --stride: source frame of the first feature."
)
@click.option("--text-encoder", default="roberta-base", show_default=True, help="Text encoder of the sentences.")
@click.option("--text-weights", metavar="PATH", help="A folder or file of weights, or 'random'.")
@tokenizer_option
@sampling_options
@option(Extraction, "dtype")
@option(Extraction, "store")
@option(Extraction, "on_bad_record")
@click.option("--annotation-set", metavar="NAME", help="Name of these annotations in the cache.  [the dataset's name]")
@option(Extraction, "strict", help="Stop at the first video without features.")
@click.option("--device", default=None, metavar="NAME", help="Device of the text encoder.  [cuda if there is one]")
def cache_import(
    folder: Path,
    name: str,
    out: Location,
    splits: tuple[str, ...],
    feature_fps: float | None,
    stride: float | None,
    offset: float,
    fps: float,
    max_frames: int,
    device: str | None,
    **chosen: Any,
) -> None:
    """Make a cache of FOLDER: a file VIDEO.npy or VIDEO.npz for each video, (n, channels) or (n, h, w, channels).

    An array timestamps_ms or frames in a .npz gives the times of its features; otherwise --feature-fps or --stride
    does.

    \b
    Example: stvg cache import i3d --name i3d --dataset json --annotations mine --stride 8 --offset 8 --out cache/i3d
    """
    from ..cache.sampling import Sampling
    from .feature_files import Times
    from .imported import import_features
    from .job import ExtractJob
    from .progress import faults_of, summary_of

    job = ExtractJob(
        out=out, sampling=Sampling(fps, max_frames), device=choose_device(device), splits=list(splits) or None, **chosen
    )
    with Progress("import", "videos", doing="reading annotations and features") as bar:
        report = import_features(folder, name, Times(feature_fps, stride, offset), job, bar.at)
    for line in faults_of(report, [], out):
        say(line, err=True)
    say("\n".join(summary_of(report, [], out)).replace("extract: ", "import: "))
    if report.skipped:
        raise SystemExit(3)
