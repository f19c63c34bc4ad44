"""``stvg dataset``."""

from __future__ import annotations

from pathlib import Path

import click

from ...console import Progress
from ...options import (
    FOLDER,
    OUT_FOLDER,
    Commands,
    RowOf,
    annotations_option,
    sampling_options,
    say,
    vidor_option,
)
from ...outputs import naming_write_errors
from .table import DATASETS

dataset_option = click.option("--dataset", type=RowOf(DATASETS), required=True, help="Annotation format.")
DRAWN = {name: row for name, row in DATASETS.items() if row.synthetic}


@click.group(cls=Commands)
def dataset() -> None:
    """Look at annotations and videos before spending hours on them."""


@dataset.command("check")
@dataset_option
@annotations_option
@vidor_option
@click.option("--split", "splits", multiple=True, help="May be repeated.  [every split found]")
@click.option("--videos", type=FOLDER, metavar="DIR", help="Also open every video: frames, size, rate.")
@sampling_options
@click.option(
    "--text-encoder", metavar="NAME", default="roberta-base", show_default=True, help="What reads the sentences."
)
@click.option("--tokenizer", metavar="DIR", help="Its tokenizer, to find sentences it cuts.  [where its kind keeps it]")
@click.option("--jobs", type=int, default=2, show_default=True, help="Videos opened at once.")
def dataset_check(
    dataset: str,
    annotations: Path,
    vidor: Path | None,
    splits: tuple[str, ...],
    videos: Path | None,
    fps: float,
    max_frames: int,
    text_encoder: str,
    tokenizer: str | None,
    jobs: int,
) -> None:
    """Validate a dataset: counts, and a list of every fault. Exits with 1 if there is any.

    \b
    Example: stvg dataset check --dataset hcstvg-v1 --annotations hcstvg --videos hcstvg/videos
    """
    from ...cache.sampling import Sampling
    from .check import check_dataset

    with Progress("check", "videos", doing="reading annotations") as bar:
        report = check_dataset(
            dataset,
            annotations,
            list(splits) or None,
            sampling=Sampling(fps, max_frames),
            videos=videos,
            vidor=vidor,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            jobs=jobs,
            progress=bar.at,
        )
    say("\n".join(report.lines()))
    if report.faults:
        raise SystemExit(1)


@dataset.command("make")
@click.argument("out", type=OUT_FOLDER)
@click.option("--format", "kind", type=RowOf(DRAWN), default="vidstg", show_default=True)
@click.option(
    "--videos", type=int, default=100, show_default=True, help="Training videos; a quarter more are held out."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes that draw videos.")
def dataset_make(out: Path, kind: str, videos: int, seed: int, jobs: int) -> None:
    """Write a synthetic dataset with exact ground truth, in a real dataset's format."""
    from ..synthetic.dataset import make_dataset

    with Progress("draw", "videos") as bar, naming_write_errors(out):
        make_dataset(out, kind, videos, seed, jobs, bar.at)
    say(f"wrote {out}")
