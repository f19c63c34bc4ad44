"""Extraction against what it cannot beat: the bare backbone on frames in memory, and bare decoding.

    uv run python tests/benchmarks/extraction.py [--media DIR] [--frames 128] [--repeats 3] [--backbone resnet101|tiny]
    uv run python tests/benchmarks/extraction.py --memory 200,2000

The three are timed in turn, several times over, in one process with everything loaded; set-up (process start, imports,
weights) is timed apart. Processor time counts all cores and all processes, so it also means something on a machine that
does other things meanwhile. --memory prints the peak memory of extractions of so many small videos, each in a new process.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tables import table

from stvg.cache.annotations import AnnotationSet
from stvg.cache.sampling import video_grid
from stvg.cache.schema import Recipe, Sample, Video
from stvg.cache.view import MAX_SIDE, View
from stvg.errors import VideoError
from stvg.extract.batches import Mixer
from stvg.extract.encoders.backbone import Backbone, build_backbone
from stvg.extract.encoders.text import TextEncoder, build_text_encoder
from stvg.extract.features import encode
from stvg.extract.runner import Options, Report, extract, make_recipe
from stvg.extract.synthetic.drawing import write_video
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import probe, read_frames

CPU = torch.device("cpu")
SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def drawn(folder: Path, count: int, size: tuple[int, int], frames: int) -> list[Path]:
    """Videos of moving noise, 30 frames a second."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = np.kron(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        files.append(folder / f"{i}.mp4")
        write_video(files[-1], np.stack([np.roll(coarse, 3 * t, axis=1) for t in range(frames)]), Fraction(30))
    return files


def sample_of(file: Path, number: int, most: int) -> Sample | None:
    """A sentence about a whole video, or its first ``most`` grid frames; None when it cannot be read."""
    try:
        facts = probe(file)
    except VideoError:
        return None
    end = min(facts.frames, int(most * facts.fps / 5))
    video = Video(f"{number}", file.name, facts.width, facts.height, facts.fps, facts.frames)
    boxes = np.tile([0.25 * facts.width, 0.25 * facts.height, 0.75 * facts.width, 0.75 * facts.height], (end, 1))
    return Sample(number, video, f"what is in video {number}?", "all", "test", (0, end), (0, end), boxes)


def recipe_of(backbone: Backbone, text: TextEncoder, resolution: int) -> Recipe:
    chosen = {"resolution": resolution, "max_side": MAX_SIDE[resolution], "keep": "roi", "dtype": "float16"}
    return make_recipe(backbone, text, chosen)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of processors, children included."""

    def processors() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    wall, cpu = time.perf_counter(), processors()
    work()
    return time.perf_counter() - wall, processors() - cpu


def speed(chosen: argparse.Namespace, scratch: Path) -> list[tuple[str, ...]]:
    """Rows of the table."""
    start = time.perf_counter()
    backbone = build_backbone(chosen.backbone, "random").to(memory_format=torch.channels_last)
    text = build_text_encoder("tiny")
    weights = time.perf_counter() - start
    imports, _ = measured(lambda: subprocess.run([sys.executable, "-c", "import stvg.extract.job"], check=True))
    media = Path(chosen.media) if chosen.media else scratch / "media"
    if not chosen.media:
        drawn(media, 2, (640, 480), 3 * chosen.frames)
    files = sorted(p for p in media.rglob("*") if p.suffix in SUFFIXES)
    samples, paths, frames = [], {}, 0
    for number, file in enumerate(files):
        sample = sample_of(file, number, chosen.frames - frames)
        if sample is not None and frames < chosen.frames:
            samples.append(sample)
            paths[sample.video.video_id] = file
            frames += len(video_grid([sample.segment], sample.video.fps, 5.0))
    recipe = recipe_of(backbone, text, chosen.resolution)

    def decode(keep: Mixer | None = None) -> list[torch.Tensor]:
        batches = []
        for sample in samples:
            video = sample.video
            grid = video_grid([sample.segment], video.fps, recipe.fps)
            view = View.evaluation(video.width, video.height, recipe.resolution, recipe.max_side)
            for block in read_frames(paths[video.video_id], grid, width=video.width, height=video.height):
                if keep is not None:
                    pixels = apply_view(block, view, backbone.mean, backbone.std).permute(0, 2, 3, 1)
                    batches += [b.tensor()[: b.filled] for b in keep.add(None, 0, 0, pixels)]
        return batches + [b.tensor()[: b.filled] for b in keep.rest()] if keep else []

    batches = decode(Mixer(chosen.batch_frames, CPU))
    reports: list[Report] = []

    def whole() -> None:
        out = scratch / f"cache{len(reports)}"
        options = Options(CPU, batch_frames=chosen.batch_frames)
        reports.append(
            extract(AnnotationSet.of("clips", "json", samples), paths, out, recipe, backbone, text, options=options)
        )

    folded = backbone.for_extraction(torch.device("cpu"))

    def bare(model: Backbone) -> None:
        for batch in batches:
            encode(model, batch, CPU)

    work: dict[str, Callable[[], object]] = {
        "bare decoding": decode,
        "bare backbone, norms as loaded": partial(bare, backbone),
        "bare backbone, norms folded": partial(bare, folded),
        "extraction": whole,
    }
    for model in (backbone, folded):
        encode(model, batches[0], CPU)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(chosen.repeats):
        for name, one in work.items():
            times[name].append(measured(one))
    assert reports[0].frames == frames, (reports[0], frames)
    middle = {name: [float(np.median(column)) for column in zip(*found, strict=True)] for name, found in times.items()}
    slower = [max(middle["bare decoding"][k], middle["bare backbone, norms folded"][k]) for k in (0, 1)]
    rows = [
        (
            name,
            *(f"{1e3 * t / frames:.2f} ms" for t in found),
            *(f"{t / s:.3f}" for t, s in zip(found, slower, strict=True)),
        )
        for name, found in middle.items()
    ]
    least = {name: min(t for t, _ in found) for name, found in times.items()}
    best = least["extraction"] / max(least["bare backbone, norms folded"], least["bare decoding"])
    rows.append(("the same, fastest of each", f"{1e3 * least['extraction'] / frames:.2f} ms", "", f"{best:.3f}", ""))
    rows.append(("set-up: process and imports", f"{imports:.2f} s", "", "", ""))
    rows.append((f"set-up: {chosen.backbone}, seeded random weights", f"{weights:.2f} s", "", "", ""))
    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in reports[-1].shares().items())
    print(
        f"{frames} frames of {len(samples)} videos, {len(batches)} batches, {chosen.repeats} repeats; busy: {shares}\n"
    )
    return rows


def peak(count: int) -> None:
    """Extract ``count`` small videos in this process and print its peak memory in MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = drawn(folder, 4, (96, 64), 30)
        facts = Video("", "", 96, 64, 30.0, 30)
        box = np.tile([10.0, 10.0, 50.0, 50.0], (30, 1))
        samples, files = [], {}
        for i in range(count):
            file = folder / f"copy{i}.mp4"
            os.link(originals[i % 4], file)
            video = Video(f"{i}", file.name, *list(vars(facts).values())[2:])
            samples.append(Sample(i, video, f"question {i % 50}", "all", "test", (0, 30), (0, 30), box))
            files[f"{i}"] = file
        backbone, text = build_backbone("tiny"), build_text_encoder("tiny")
        report = extract(
            AnnotationSet.of("clips", "json", samples),
            files,
            folder / "cache",
            recipe_of(backbone, text, 64),
            backbone,
            text,
        )
        assert report.videos == count
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(counts: list[int]) -> list[tuple[str, ...]]:
    rows, first = [], 0.0
    for count in counts:
        command = [sys.executable, __file__, "--peak", str(count)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        ours = float(ran.stdout)
        first = first or ours
        rows.append((f"{count:,} videos", f"{ours:.0f} MB", f"{ours / first:.3f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", help="folder of videos; synthetic ones if left out")
    parser.add_argument("--backbone", choices=["tiny", "resnet101"], default="resnet101")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--batch-frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", metavar="N,N", help="peak memory of so many videos instead")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        peak(chosen.peak)
    elif chosen.memory:
        table(("extraction of", "peak", "ratio"), memory([int(n) for n in chosen.memory.split(",")]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            rows = speed(chosen, Path(scratch))
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
        table(("what", "wall, a frame", "processors, a frame", "wall ratio", "processor ratio"), rows)


if __name__ == "__main__":
    main()
