"""``stvg dataset``."""

from __future__ import annotations

from pathlib import Path

import click

from ...console import Progress
from ...errors import UsageError
from ...options import (
    FOLDER,
    OUT_FILE,
    OUT_FOLDER,
    Commands,
    RowOf,
    annotations_option,
    say,
    vidor_option,
)
from ...outputs import naming_write_errors
from ...wording import counted
from ..request import dataset_option, sampling_options
from .formats.table import EXPORTED, FORMATS
from .table import DATASETS

DRAWN = {name: row for name, row in DATASETS.items() if row.synthetic}


@click.group(cls=Commands, short_help="Make, import, check and show annotations.")
def dataset() -> None:
    """Begin, import, check, look at and export annotations."""


@dataset.command("new", short_help="Begin annotations for a folder of videos.")
@click.argument("videos", type=FOLDER)
@click.option("--out", type=OUT_FOLDER, required=True, metavar="DIR", help="Folder for SPLIT.json.")
@click.option("--split", default="train", show_default=True)
def dataset_new(videos: Path, out: Path, split: str) -> None:
    """Write a file for --dataset json to fill in: every video of a folder, with its size, rate and number of frames.

    A sample for each video waits for its sentence, moment and boxes; stvg dataset check says what is missing.

    \b
    Example: stvg dataset new videos --out mine
    """
    from .formats.skeleton import write_skeleton

    with Progress("new", "videos", doing="looking for videos") as bar, naming_write_errors(out):
        lines, faults = write_skeleton(videos, out, split, bar.at)
    say("\n".join([*faults, *lines]))
    if faults:
        raise SystemExit(3)


@dataset.command("import", short_help="Import CVAT, Label Studio, MOT, COCO-VID or CSV.")
@click.argument("path", type=FOLDER)
@click.option("--format", "kind", type=RowOf(FORMATS), required=True, help="What wrote the annotations.")
@click.option("--videos", type=FOLDER, required=True, metavar="DIR", help="Folder of the video files.")
@click.option(
    "--sentences",
    type=FOLDER,
    metavar="FILE",
    help="CSV table: video, track, sentence; if wanted start, end, split.  [sentences.csv of an exported folder; else "
    "the sentences of the annotations; else an empty table is written]",
)
@click.option("--out", type=OUT_FOLDER, required=True, metavar="DIR", help="Folder for SPLIT.json.")
@click.option("--split", default="train", show_default=True, help="Of sentences whose row names none.")
@click.option(
    "--step",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="The annotation's frame k is the video's frame k * N.",
)
@click.option(
    "--bridge",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Put boxes on straight lines in gaps of at most N annotated frames.",
)
def dataset_import(
    path: Path,
    kind: str,
    videos: Path,
    sentences: Path | None,
    out: Path,
    split: str,
    step: int,
    bridge: int,
) -> None:
    """Turn annotations of another tool and a table of sentences into files for --dataset json.

    What is left out is counted and named; with exit status 3 where that is most likely a mistake.

    \b
    Example: stvg dataset import gt --format mot --videos videos --sentences sentences.csv --out mine
    """
    from .formats.importing import import_dataset

    with Progress("import", "videos", doing="reading annotations") as bar, naming_write_errors(out):
        report = import_dataset(
            kind, path, videos, out, sentences=sentences, split=split, step=step, bridge=bridge, progress=bar.at
        )
    say("\n".join(report.lines()))
    if report.faults:
        raise SystemExit(3)


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


@dataset.command("show", short_help="Draw annotated boxes into frames.")
@dataset_option
@annotations_option
@vidor_option
@click.option("--videos", type=FOLDER, required=True, metavar="DIR", help="Folder of the video files.")
@click.option("--split", metavar="NAME", help="[the first one found]")
@click.option(
    "--sample", "ids", multiple=True, metavar="ID", help="May be repeated.  [some that are spread over the split]"
)
@click.option(
    "--count", type=click.IntRange(min=1), default=6, show_default=True, help="How many, where none is named."
)
@click.option("--out", type=OUT_FILE, required=True, metavar="FILE", help="The picture, a PNG.")
def dataset_show(
    dataset: str,
    annotations: Path,
    vidor: Path | None,
    videos: Path,
    split: str | None,
    ids: tuple[str, ...],
    count: int,
    out: Path,
) -> None:
    """Draw annotated boxes into frames of their moments, to see whether annotations and videos belong together.

    \b
    Example: stvg dataset show --dataset json --annotations mine --videos videos --out sheet.png
    """
    from ...evaluate.annotation_sheet import draw_sheet, spread_over
    from .folders import find_splits
    from .readers import read_annotations

    split = split or find_splits(dataset, annotations)[0]
    read = read_annotations(dataset, annotations, split, on_bad_record="skip", vidor=vidor)
    samples = spread_over(read.samples, ids, count)
    with naming_write_errors(out):
        draw_sheet(samples, videos, dataset, out)
    say(f"wrote {out}: {counted(len(samples), 'sample')} of {len(read.samples):,} in split {split}")
    if read.dropped:
        say(f"{counted(len(read.dropped), 'faulty record')} left out: stvg dataset check says why", err=True)


@dataset.command("export", short_help="Export annotations to MOT or COCO-VID.")
@dataset_option
@annotations_option
@vidor_option
@click.option("--split", metavar="NAME", help="[the only one found]")
@click.option("--format", "kind", type=RowOf(EXPORTED), required=True)
@click.option("--out", type=OUT_FOLDER, required=True, metavar="DIR", help="Folder for the boxes and sentences.csv.")
def dataset_export(
    dataset: str, annotations: Path, vidor: Path | None, split: str | None, kind: str, out: Path
) -> None:
    """Write annotated boxes as files of other tools, and a table of the sentences beside them.

    \b
    Example: stvg dataset export --dataset json --annotations own --split train --format mot --out exported
    """
    from .folders import find_splits
    from .formats.exporting import export_dataset
    from .readers import read_annotations

    there = [split] if split else find_splits(dataset, annotations)
    if len(there) > 1:
        raise UsageError(f"{annotations} has several splits", found=", ".join(there), hint=f"--split {there[0]}")
    read = read_annotations(dataset, annotations, there[0], vidor=vidor)
    with naming_write_errors(out):
        lines = export_dataset(read.samples, kind, out)
    say("\n".join(lines))


@dataset.command("make", short_help="Draw a synthetic dataset with exact ground truth.")
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
