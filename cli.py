"""The commands. Heavy imports happen inside each, so that help is instant."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from . import __version__
from .cache.errors import StvgError, UsageError

if TYPE_CHECKING:
    import torch

    from .cache.objects import Location
    from .cache.schema import Sample, Tube
    from .evaluate.metrics import Scores

DATASETS = ("vidstg", "hcstvg-v1", "hcstvg-v2", "json")
FOLDER = click.Path(path_type=Path)


class CachePlace(click.ParamType):
    """Where a cache lies: a local folder, or a URL of object storage."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        from .cache.objects import location

        return location(value) if isinstance(value, str) else value


CACHE = CachePlace()


class Commands(click.Group):
    """Lists commands in working order, and prints our errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from .cache.config import nearest

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def main() -> None:
    """Entry point: our errors become a message and exit status 1, an interrupt 130."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        cli.main(prog_name="stvg", standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(_fail("interrupted", 130)) from None
    except KeyboardInterrupt:
        raise SystemExit(_fail("interrupted; repeat the command to go on", 130)) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except StvgError as error:
        raise SystemExit(_fail(f"{type(error).__name__}: {error}", 1)) from None
    except click.exceptions.Exit as stop:
        raise SystemExit(stop.exit_code) from None


def _tick(bar: Any) -> None:
    bar.update(1)


def _fail(message: str, code: int) -> int:
    click.echo(f"stvg: {message}", err=True)
    return code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stvg")
def cli() -> None:
    """Spatio-temporal video grounding from an offline feature cache.

    Extract features once, then train, compare and score grounding heads in minutes. Start with: stvg demo
    """


# --- options several commands share ------------------------------------------------------------------------------------

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


dataset_option = click.option("--dataset", type=click.Choice(DATASETS), required=True, help="Annotation format.")
annotations_option = click.option(
    "--annotations", type=FOLDER, required=True, metavar="PATH", help="Dataset folder, or one annotation file."
)
vidor_option = click.option(
    "--vidor", type=FOLDER, metavar="DIR", help="VidOR folder, if not inside the dataset folder."
)
sampling_options = options(
    click.option("--fps", type=float, default=5.0, show_default=True, help="Frames looked at per second of video."),
    click.option(
        "--max-frames", type=int, default=100, show_default=True, help="Longer clips are thinned to this many."
    ),
)
device_option = click.option(
    "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1 …  [cuda if there is one]"
)
tokenizer_option = click.option(
    "--tokenizer", metavar="DIR", help="Folder with vocab.json and merges.txt.  [that of the text weights]"
)
encoder_options = options(
    click.option(
        "--backbone-weights", metavar="PATH", help="A .pth or .safetensors file, or 'random'.  [local torch hub cache]"
    ),
    click.option(
        "--text-weights",
        metavar="PATH",
        help="A folder or file of weights, or 'random'.  [local Hugging Face cache]",
    ),
    tokenizer_option,
    click.option("--weights-seed", type=int, default=0, show_default=True, help="Seed of random weights."),
)
compression_option = click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip"]),
    help="Pack for cold storage: zstd with --store zarr, gzip with hdf5. Slower to read.  [nothing is packed]",
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["tubedetr", "dense", "hcstvg_official"]),
    default="tubedetr",
    show_default=True,
    help="How the field's metrics are counted: on sampled frames as published numbers are, or on every frame.",
)


def choose_device(name: str | None) -> torch.device:
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used", found=str(error).splitlines()[0], hint="--device cpu"
        ) from None
    return device


# --- demo --------------------------------------------------------------------------------------------------------------


@cli.command(short_help="Do it all on synthetic videos, from pixels to scores.")
@click.option("--out", type=FOLDER, default=Path("stvg-demo"), show_default=True, help="Where everything is written.")
@click.option("--quick", is_flag=True, help="A smaller run that shows the plumbing works; its scores mean little.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of videos, encoders and head.")
def demo(out: Path, quick: bool, seed: int) -> None:
    """Do it all on synthetic videos: make them, extract, train, evaluate, and draw one grounding."""
    from .evaluate.demo import run_demo

    run_demo(out, quick=quick, seed=seed, say=click.echo)


# --- dataset -----------------------------------------------------------------------------------------------------------


@cli.group(cls=Commands)
def dataset() -> None:
    """Look at annotations and videos before spending hours on them."""


@dataset.command("check")
@dataset_option
@annotations_option
@vidor_option
@click.option("--split", "splits", multiple=True, help="May be repeated.  [every split found]")
@click.option("--videos", type=FOLDER, metavar="DIR", help="Also open every video: frames, size, rate.")
@sampling_options
@click.option("--jobs", type=int, default=2, show_default=True, help="Videos opened at once.")
def dataset_check(
    dataset: str,
    annotations: Path,
    vidor: Path | None,
    splits: tuple[str, ...],
    videos: Path | None,
    fps: float,
    max_frames: int,
    jobs: int,
) -> None:
    """Validate a dataset: counts, and a list of every fault. Exits with 1 if there is any.

    \b
    Example: stvg dataset check --dataset hcstvg-v1 --annotations hcstvg --videos hcstvg/videos
    """
    from tqdm import tqdm

    from .cache.sampling import Sampling
    from .extract.check import check_dataset

    with tqdm(desc="check", unit=" videos", disable=None if videos else True) as bar:
        report = check_dataset(
            dataset,
            annotations,
            list(splits) or None,
            sampling=Sampling(fps, max_frames),
            videos=videos,
            vidor=vidor,
            jobs=jobs,
            progress=lambda: _tick(bar),
        )
    click.echo("\n".join(report.lines()))
    if report.faults:
        raise SystemExit(1)


@dataset.command("make")
@click.argument("out", type=FOLDER)
@click.option(
    "--format", "kind", type=click.Choice(["vidstg", "hcstvg-v1", "hcstvg-v2"]), default="vidstg", show_default=True
)
@click.option(
    "--videos", type=int, default=100, show_default=True, help="Training videos; a quarter more are held out."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes that draw videos.")
def dataset_make(out: Path, kind: str, videos: int, seed: int, jobs: int) -> None:
    """Write a synthetic dataset with exact ground truth, in a real dataset's format."""
    from .evaluate.demo import make_dataset

    make_dataset(out, kind, videos, seed, jobs)
    click.echo(f"wrote {out}")


# --- extract -----------------------------------------------------------------------------------------------------------


@cli.command()
@dataset_option
@annotations_option
@vidor_option
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos.  [the dataset's usual place]")
@click.option("--split", "splits", multiple=True, help="May be repeated.  [every split found]")
@click.option(
    "--out",
    type=CACHE,
    required=True,
    metavar="DIR|URL",
    help="The cache to fill: a folder, or s3://bucket/folder. Repeat the command to go on.",
)
@click.option("--backbone", type=click.Choice(["resnet101", "tiny"]), default="resnet101", show_default=True)
@click.option(
    "--text-encoder", type=click.Choice(["roberta-base", "tiny"]), help="[tiny with --backbone tiny, else roberta-base]"
)
@encoder_options
@click.option("--resolution", type=int, default=224, show_default=True, help="Short side of the frames, in pixels.")
@sampling_options
@click.option(
    "--levels",
    type=click.Choice(["roi", "full", "c5"]),
    default="roi",
    show_default=True,
    help="What is kept of C3, C4: regions of targets, maps, nothing.",
)
@click.option(
    "--views",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stored renditions of a training video: the evaluation's geometry, then random resizes and crops.",
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
    type=click.Choice(["none", "bf16"]),
    default="none",
    show_default=True,
    help="bf16: run the backbone in bfloat16, where the machine is faster at it. Features differ by its rounding.",
)
@click.option("--store", type=click.Choice(["zarr", "hdf5"]), default="zarr", show_default=True)
@compression_option
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
    type=click.Choice(["local", "torchrun", "ray"]),
    default="local",
    show_default=True,
    help="Who starts them: this command, torchrun, or a Ray cluster.",
)
@click.option("--shard", metavar="I/N", default="1/1", show_default=True, help="Only this share of the videos.")
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
    help="Seconds without a new frame after which a video is given up.",
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

    \b
    Example: stvg extract --dataset vidstg --annotations vidstg --videos vidor/video --out cache/vidstg
    """
    from .cache.sampling import Sampling
    from .extract.decoders import Settings
    from .extract.distribute import launch, parse_shard
    from .extract.estimate import estimate
    from .extract.job import ExtractJob

    devices = [choose_device(name) for name in (chosen.pop("devices") or "").split(",")]
    decoding = Settings(
        processes=chosen.pop("decoders") or (1 if devices[0].type == "cpu" else 4),
        timeout=chosen.pop("decode_timeout"),
        memory=int(chosen.pop("decoder_memory") * 2**30),
    )
    dry_run, part = chosen.pop("dry_run"), parse_shard(chosen.pop("shard"))
    job = ExtractJob(
        out=out,
        sampling=Sampling(fps, max_frames),
        splits=list(splits) or None,
        device=devices[0],
        part=part,
        decoding=decoding,
        **chosen,
    )
    if dry_run:
        click.echo("\n".join(estimate(job, max(processes, len(devices))).lines()))
        return
    with progress_bar("extract", "videos") as bar:
        report, dropped = launch(job, launcher, devices, processes, bar)
    click.echo(
        f"extract: {report.videos:,} videos done ({report.frames:,} frames), {report.already:,} were there already, "
        f"{len(report.skipped):,} skipped, {len(dropped):,} records dropped → {out}"
    )
    if report.frames:
        shares = report.shares()
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
        click.echo(f"busy: {busy}; {max(shares, key=lambda s: shares[s])} is the limit")
    for line in [str(e) for e in dropped] + list(report.skipped.values()):
        click.echo(f"  {line}", err=True)
    if report.skipped:
        click.echo(
            f"skipped videos are listed in {out / 'skipped.jsonl'}; try them again with --retry-skipped", err=True
        )
        raise SystemExit(3)


class progress_bar:
    """A tqdm bar that also says how busy each stage is, and which one limits."""

    def __init__(self, name: str, unit: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=name, unit=f" {unit}", disable=None)
        self.skipped = self.frames = 0
        self.start = time.monotonic()

    def __enter__(self) -> progress_bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def total(self, count: int) -> None:
        self.bar.reset(total=count)

    def __call__(self, video_id: str, frames: int, skipped: str | None, stages: dict[str, float]) -> None:
        self.frames += frames
        self.skipped += skipped is not None
        limit = max(stages, key=lambda stage: stages[stage])
        shares = " ".join(f"{k} {v:.0%}{' (the limit)' if k == limit else ''}" for k, v in stages.items())
        rate = self.frames / max(time.monotonic() - self.start, 1e-9)
        self.bar.set_postfix_str(f"{self.skipped} skipped  {rate:.0f} frames/s  {shares}", refresh=False)
        self.bar.update(1)


# --- cache -------------------------------------------------------------------------------------------------------------


@cli.group(cls=Commands)
def cache() -> None:
    """Look into a cache, check it, and bring it into another form."""


@cache.command("info")
@click.argument("path", type=CACHE)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def cache_info(path: Location, as_json: bool) -> None:
    """What a cache holds and exactly how it was made."""
    from .cache.index import Cache
    from .cache.summary import summarise, summary_lines

    found = summarise(Cache.open(path))
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(summary_lines(found)))


@cache.command("verify", short_help="Compare every checksum, and name all that is wrong.")
@click.argument("path", type=CACHE)
@click.option(
    "--repair", is_flag=True, help="Remove what is damaged or left over, so that stvg extract writes it again."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Units read at once.")
def cache_verify(path: Location, repair: bool, jobs: int) -> None:
    """Read everything, compare every checksum, and name all that is missing, damaged or foreign.

    Exits with 1 if anything is wrong, repaired or not: after a repair, stvg extract has to fill the gaps. Files that are
    not the cache's own are named and left alone.
    """
    from .cache import verify as check

    with unit_bar("verify") as bar:
        findings = check.verify(path, jobs, bar)
    for problem in findings.problems:
        click.echo(problem.message, err=True)
    click.echo(f"{findings.units:,} units read, {len(findings.problems):,} problems")
    if repair:
        removed = check.repair(findings)
        click.echo(f"removed {len(removed):,}; the next stvg extract writes again what belongs there")
        for place in removed:
            click.echo(f"  {place}")
    elif findings.removable:
        click.echo(
            f"--repair would remove {len(findings.removable):,} files and folders, for stvg extract to write again"
        )
    if findings.problems:
        raise SystemExit(1)


@cache.command("convert", short_help="Copy a cache into another store, place or packing.")
@click.argument("source", type=CACHE)
@click.argument("target", type=CACHE)
@click.option("--store", type=click.Choice(["zarr", "hdf5"]), required=True, help="How TARGET keeps its units.")
@compression_option
def cache_convert(source: Location, target: Location, store: str, compression: str | None) -> None:
    """Copy a cache into another store or to another place: the same features, byte for byte.

    \b
    Example: stvg cache convert cache/vidstg s3://bucket/vidstg --store zarr
    """
    from .cache.convert import convert

    with unit_bar("convert") as bar:
        written = convert(source, target, store, compression, bar)
    click.echo(f"convert: {written:,} units written → {target}")


@cache.command("merge")
@click.argument("out", type=FOLDER)
@click.argument("shards", type=FOLDER, nargs=-1, required=True)
def cache_merge(out: Path, shards: tuple[Path, ...]) -> None:
    """Make one cache of SHARDS of the same recipe. On one file system nothing is copied: units are linked.

    \b
    Example: stvg cache merge cache/vidstg shards/0 shards/1 shards/2
    """
    from .cache.merge import merge

    with unit_bar("merge") as bar:
        written = merge(out, shards, bar)
    click.echo(f"merge: {written:,} units of {len(shards):,} shards → {out}")


class unit_bar:
    """A tqdm bar over the units of a cache, whose number is known with the first."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=name, unit=" units", disable=None)

    def __enter__(self) -> unit_bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)


# --- weights -----------------------------------------------------------------------------------------------------------


@cli.group(cls=Commands)
def weights() -> None:
    """Bring published weights into files of our own."""


@weights.command("import")
@click.argument("source", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, metavar="DIR", help="A new folder for the parts and report.json.")
def weights_import(source: Path, out: Path) -> None:
    """Split a checkpoint of MDETR, TubeDETR, the FSM authors, torchvision or Hugging Face into backbone, text encoder and
    head, as safetensors. Every tensor is accounted for; a part that is not whole is refused, and so is a file with anything
    but tensors and options in it.

    \b
    Example: stvg weights import pretrained_resnet101_checkpoint.pth --out weights/mdetr
    """
    from .heads.published import import_weights

    click.echo("\n".join(import_weights(source, out).lines(source, out)))


# --- train -------------------------------------------------------------------------------------------------------------


@cli.command("train-head", short_help="Train the grounding head, and encoders if asked.")
@click.option("--cache", "cache_path", type=CACHE, required=True, metavar="DIR|URL", help="The cache to train from.")
@click.option(
    "--out", type=FOLDER, default=Path("runs/head"), show_default=True, help="Run folder; repeat the command to go on."
)
@click.option("--preset", default="paper", show_default=True, help="paper, paper-hcstvg, tiny, or a .yaml file.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="A.B=C",
    help="Override a setting, e.g. --set train.lr=1e-4. May be repeated.",
)
@click.option(
    "--mode",
    type=click.Choice(["cached", "text", "last-stage", "end-to-end"]),
    help="What trains besides the head: nothing, the text encoder, the backbone's last stage, or both encoders from "
    "pixels.  [the preset's: cached]",
)
@click.option("--videos", type=FOLDER, metavar="DIR", help="Folder of the videos; for --mode end-to-end.")
@encoder_options
@click.option(
    "--init",
    type=FOLDER,
    metavar="FILE",
    help="Start the head from these weights: head.safetensors of stvg weights import.",
)
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option(
    "--val-split", default=None, help="Split to validate on.  [val, then test, if the cache has it; 'none' for neither]"
)
@protocol_option
@device_option
def train_head(
    cache_path: Location,
    out: Path,
    preset: str,
    assignments: tuple[str, ...],
    mode: str | None,
    init: Path | None,
    split: str,
    val_split: str | None,
    protocol: str,
    device: str | None,
    **sources: Any,
) -> None:
    """Train the grounding head on cached features; with --mode, encoders as well.

    Encoders that train start from the weights the cache was made with: name these as you did for stvg extract.

    \b
    Examples:
      stvg train-head --cache cache/vidstg --out runs/fsm --set train.batch_size=32
      stvg train-head --cache cache/vidstg --out runs/text --mode text --text-weights roberta-base/
    """
    from .cache.index import Cache
    from .evaluate.evaluation import validation
    from .heads.experiment import load_experiment
    from .heads.train import Run, train

    experiment = load_experiment(preset, [*assignments, *([f"train.mode={mode}"] if mode else [])])
    if experiment.train.mode == "end-to-end" and sources["videos"] is None:
        raise click.UsageError("training end to end needs --videos, the folder of the videos")
    opened = Cache.open(cache_path)
    target = choose_device(device)
    run = Run(out, opened, experiment, split, target, sources, init)
    if run.start is not None:
        fresh, unused = len(run.start.fresh), len(run.start.unused)
        click.echo(
            f"the head starts from {init}; {fresh} of its tensors are drawn afresh, {unused} of the file's unused"
        )
    if run.resume():
        click.echo(f"going on at step {run.step:,} of {run.total_steps:,}")
    splits = set(opened.samples.splits)
    val_split = val_split or next((s for s in ("val", "test") if s in splits and s != split), "none")
    validate = None
    if val_split != "none":
        held_out = run.open_split(val_split)
        validate = validation(held_out, experiment.train.batch_size, target, protocol)
    with training_bar(run.total_steps, run.step) as bar:
        best = train(run, validate, bar)
    click.echo(f"trained {run.total_steps:,} steps → {best}")


class training_bar:
    """A tqdm bar with the loss and its terms; validation scores get a line of their own."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, initial=done, desc="train", unit=" steps", disable=None)

    def __enter__(self) -> training_bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, line: dict[str, Any]) -> None:
        self.bar.update(line["step"] - self.bar.n)
        if "loss" in line:
            terms = "  ".join(f"{k} {v:.2f}" for k, v in line.items() if k not in ("step", "loss", "lr"))
            self.bar.set_postfix_str(f"loss {line['loss']:.2f} = {terms}  lr {line['lr']:.1e}")
        else:
            scores = "  ".join(f"{k} {100 * v:.2f}" for k, v in line["validation"].items())
            self.bar.write(f"epoch {line['epoch']}: {scores}")


# --- evaluate ----------------------------------------------------------------------------------------------------------


@cli.command(short_help="Score a head, or anyone's predictions, as the field counts.")
@click.option("--checkpoint", type=FOLDER, metavar="FILE", help="A head of stvg train-head; needs --cache.")
@click.option("--cache", "cache_path", type=CACHE, metavar="DIR|URL", help="The cache to read features from.")
@click.option(
    "--predictions", type=FOLDER, metavar="FILE", help="Anyone's predictions (.jsonl); needs --dataset, --annotations."
)
@click.option("--dataset", type=click.Choice(DATASETS), help="Annotation format, with --predictions.")
@click.option(
    "--annotations", type=FOLDER, metavar="PATH", help="Dataset folder or annotation file, with --predictions."
)
@vidor_option
@click.option("--split", default="test", show_default=True)
@protocol_option
@click.option("--fps", type=float, default=None, help="Sampling rate scored at.  [5, or the cache's]")
@click.option("--max-frames", type=int, default=None, help="Slots of a clip.  [100, or the head's]")
@click.option("--allow-missing", is_flag=True, help="Score what is there; missing samples are counted, not fatal.")
@click.option(
    "--videos", type=FOLDER, metavar="DIR", help="Folder of the videos, for a head that was trained end to end."
)
@tokenizer_option
@click.option(
    "--shuffle-sentences", type=int, metavar="SEED", help="Control: give every sample another one's sentence."
)
@click.option("--out", type=FOLDER, metavar="FILE", help="Write the head's predictions here (.jsonl).")
@click.option("--json", "json_path", type=FOLDER, metavar="FILE", help="Write scores here, per group and per sample.")
@click.option(
    "--export",
    "exports",
    type=(click.Choice(["challenge", "coco", "csv"]), FOLDER),
    multiple=True,
    metavar="KIND FILE",
    help="Write predictions as HC-STVG's challenge or COCO-style video boxes, or scores as csv. May be repeated.",
)
@click.option(
    "--compare",
    type=(FOLDER, FOLDER),
    metavar="A B",
    help="Compare two files of --json instead: paired differences, and the samples that changed most.",
)
@click.option(
    "--style", type=click.Choice(["terminal", "markdown", "csv", "latex"]), default="terminal", show_default=True
)
@device_option
def evaluate(
    json_path: Path | None,
    exports: tuple[tuple[str, Path], ...],
    compare: tuple[Path, Path] | None,
    style: str,
    **chosen: Any,
) -> None:
    """Score a head, or anyone's predictions, as the field counts; 95 % intervals are over other draws of the videos.

    \b
    Examples:
      stvg evaluate --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --split test --json fsm.json
      stvg evaluate --predictions tubes.jsonl --dataset vidstg --annotations vidstg --split test --json theirs.json
      stvg evaluate --compare theirs.json fsm.json
    """
    from .evaluate.tables import format_comparison, format_table

    if compare:
        if (
            json_path
            or exports
            or any(chosen[k] for k in ("checkpoint", "predictions", "cache_path", "dataset", "out"))
        ):
            raise click.UsageError("--compare takes two files of scores and nothing else")
        from .evaluate.compare import compare as compare_runs
        from .evaluate.compare import read_scores

        first, second = compare
        names = [p.stem if first.stem != second.stem else str(p) for p in compare]
        found = compare_runs(read_scores(first), read_scores(second))
        click.echo(format_comparison(found, names[0], names[1]), nl=False)
        return
    if (chosen["checkpoint"] is None) == (chosen["predictions"] is None):
        raise click.UsageError(
            "give either --checkpoint with --cache, or --predictions with --dataset and --annotations"
        )
    scored = (score_head if chosen["checkpoint"] else score_predictions)(**chosen)
    click.echo(format_table(scored.scores, dataset=scored.dataset, split=chosen["split"], style=style), nl=False)
    write_results(scored, json_path, exports)


class Scored(NamedTuple):
    """What there is to write after scoring."""

    scores: Scores
    dataset: str
    samples: Iterable[Sample]
    tubes: dict[int | str, Tube]


def write_results(found: Scored, json_path: Path | None, exports: tuple[tuple[str, Path], ...]) -> None:
    from .cache.atomic import write_atomic
    from .evaluate.exports import write_challenge, write_coco, write_csv

    if json_path:
        write_atomic(json_path, json.dumps(found.scores.to_json(), indent=1) + "\n")
    for kind, path in exports:
        if kind == "csv":
            write_csv(path, found.samples, found.tubes, found.scores)
        else:
            (write_challenge if kind == "challenge" else write_coco)(path, found.samples, found.tubes)


def score_head(
    checkpoint: Path,
    cache_path: Location | None,
    split: str,
    protocol: str,
    max_frames: int | None,
    shuffle_sentences: int | None,
    videos: Path | None,
    tokenizer: str | None,
    out: Path | None,
    device: str | None,
    **unused: Any,
) -> Scored:
    from dataclasses import replace

    from tqdm import tqdm

    from .cache.index import Cache
    from .evaluate.evaluation import load_head, open_split, score_split, tubes_of
    from .evaluate.evaluation import shuffle_sentences as shuffle
    from .evaluate.predictions import write_predictions

    given = [k for k in ("dataset", "annotations", "vidor", "fps") if unused.get(k) is not None]
    if cache_path is None or given:
        wrong = f"does not go with --{given[0]}: the cache says" if given else "needs --cache:"
        raise click.UsageError(f"--checkpoint {wrong} where the features are")
    target = choose_device(device)
    head = load_head(checkpoint, target, tokenizer)
    opened = Cache.open(cache_path)
    if max_frames:
        head = replace(head, sampling=replace(head.sampling, max_frames=max_frames))
    data = open_split(head, opened, split, videos)
    if shuffle_sentences is not None:
        shuffle(data, shuffle_sentences)
    with tqdm(total=len(data), desc="evaluate", unit=" sentences", disable=None) as bar:
        tubes = tubes_of(head.model, data, head.batch_size, target, lambda: _tick(bar))
    if out:
        write_predictions(out, tubes.values(), {s.sample_id: s for s in data.samples()})
    return Scored(score_split(data, tubes, protocol), opened.recipe.dataset, list(data.samples()), tubes)


def score_predictions(
    predictions: Path,
    dataset: str | None,
    annotations: Path | None,
    vidor: Path | None,
    split: str,
    protocol: str,
    fps: float | None,
    max_frames: int | None,
    allow_missing: bool,
    **unused: Any,
) -> Scored:
    from .cache.sampling import Sampling
    from .evaluate.metrics import score
    from .evaluate.predictions import read_predictions
    from .extract.readers import read_annotations

    if dataset is None or annotations is None:
        raise click.UsageError("--predictions needs --dataset and --annotations")
    given = [k for k in ("cache_path", "shuffle_sentences", "videos", "tokenizer", "out") if unused.get(k) is not None]
    if given:
        raise click.UsageError(f"--predictions does not go with --{given[0].replace('_path', '').replace('_', '-')}")
    sampling = Sampling(fps or 5.0, max_frames or 100)
    read = read_annotations(dataset, annotations, split, sampling=sampling, for_scoring=True, vidor=vidor)
    tubes = read_predictions(predictions)
    scores = score(read.samples, tubes, protocol=protocol, sampling=sampling, allow_missing=allow_missing)
    return Scored(scores, dataset, read.samples, tubes)


# --- ablate ------------------------------------------------------------------------------------------------------------


@cli.command(short_help="Re-run the paper's ablations from one cache.")
@click.option("--cache", "cache_path", type=CACHE, required=True, metavar="DIR", help="The cache all cells share.")
@click.option(
    "--cache-at",
    "others",
    type=(int, CACHE),
    multiple=True,
    metavar="RESOLUTION DIR",
    help="The cache of another resolution, for table X.",
)
@click.option(
    "--table", "names", multiple=True, help="III, IV, V, VI, VII, VIII, IX or X; may be repeated.  [all but X]"
)
@click.option("--grid", type=FOLDER, metavar="FILE", help="A YAML file with rows of your own instead.")
@click.option("--preset", default="paper-hcstvg", show_default=True, help="What every cell starts from.")
@click.option("--set", "assignments", multiple=True, metavar="A.B=C", help="Override a setting in every cell.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of every row.")
@click.option("--split", default="train", show_default=True, help="Split to train on.")
@click.option("--test-split", default="test", show_default=True, help="Split to score.")
@protocol_option
@click.option("--out", type=FOLDER, default=Path("runs/ablation"), show_default=True, help="Cells and tables.")
@click.option(
    "--devices",
    default=None,
    metavar="NAMES",
    help="cpu,cpu or cuda:0,cuda:1 …: one cell at a time on each.  [the best one]",
)
def ablate(
    cache_path: Location,
    others: tuple[tuple[int, Location], ...],
    names: tuple[str, ...],
    grid: Path | None,
    assignments: tuple[str, ...],
    out: Path,
    devices: str | None,
    **chosen: Any,
) -> None:
    """Re-run the paper's ablations from one cache, or a grid of your own; finished cells never run again.

    Exits with 1 when a cell failed; the others are completed.

    \b
    Examples:
      stvg ablate --cache cache/hc1 --table III --seeds 3
      stvg ablate --cache cache/hc1 --grid dropout.yaml --devices cuda:0,cuda:1
    """
    from tqdm import tqdm

    from .cache.config import nearest
    from .evaluate.ablation import TABLES, Plan, cells_of, read_grid, run_cells
    from .evaluate.ablation_table import lines_of, terminal, write_all

    unknown = [n for n in names if n not in TABLES]
    if unknown or (grid and names):
        raise click.UsageError(
            f"no table {unknown[0]!r}; {nearest(unknown[0], TABLES)}" if unknown else "--grid or --table"
        )
    tables = [read_grid(grid)] if grid else [TABLES[n] for n in names or (n for n in TABLES if n != "X")]
    plan = Plan(out=out, caches={None: cache_path, **dict(others)}, settings=assignments, **chosen)
    cells = cells_of(tables, plan)
    finished = sum(cell.result is not None for cell in cells)
    on = [str(choose_device(name)) for name in devices.split(",")] if devices else [str(choose_device(None))]
    with tqdm(total=len(cells), initial=finished, desc="ablate", unit=" cells", disable=None) as bar:

        def ended(cell: Any, error: str | None) -> None:
            bar.update(1)
            if error:
                bar.write(f"{cell.row.label}, seed {cell.seed}, failed: {error}\n  see {cell.folder / 'log.txt'}")

        failed = run_cells(cells, plan, on, ended)
    found = {table.name: (table, lines_of(table, plan)) for table in tables}
    write_all(out, found, plan)
    for table, lines in found.values():
        click.echo(terminal(table, lines, plan))
    counts = f"{len(cells)} cells, {finished} finished before, {len(failed)} failed"
    click.echo(f"{counts} → {out}/tables.md, tables.csv, tables.tex, plot.png")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
