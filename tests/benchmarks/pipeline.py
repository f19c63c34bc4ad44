"""How fast the pipeline is, as ratios within one run: reading, extracting, training.

    uv run python tests/benchmarks/pipeline.py [--backbone tiny|resnet101] [--frames 64]

Everything is warm: files are in the page cache, models have run once. Prints a Markdown table; times nothing in tests.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stvg.cache.dataset import CachedDataset
from stvg.cache.index import Cache, video_key
from stvg.cache.order import epoch_order
from stvg.cache.sampling import Sampling
from stvg.extract.backbone import build_backbone
from stvg.extract.decode import read_frames
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic import SyntheticConfig, write_vidstg
from stvg.extract.transforms import apply_view
from stvg.heads.experiment import load_experiment
from stvg.heads.train import Run, step

CPU = torch.device("cpu")


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """Median time of some runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def reading(cache: Cache, folder: Path) -> list[tuple[str, str, str]]:
    """One video's C5 through the store, against a copy out of a memmap of the same bytes."""
    key = max(cache.store.keys("videos"), key=lambda k: cache.store.arrays(k)["c5"].shape[0])
    whole = cache.store.read(key, "c5")
    np.save(folder / "c5.npy", whole)
    mapped = np.load(folder / "c5.npy", mmap_mode="r")
    out = np.empty_like(whole)
    ours = seconds(lambda: cache.store.read(key, "c5", out=out), 50)
    theirs = seconds(lambda: np.copyto(out, mapped), 50)
    rate = f"{whole.nbytes / ours / 1e9:.2f} GB/s"
    return [
        (f"read C5 of a video ({whole.nbytes / 1e6:.1f} MB), checksums compared", rate, f"{theirs / ours:.2f} x memmap")
    ]


def extracting(cache: Cache, data: Path, backbone_name: str, count: int) -> list[tuple[str, str, str]]:
    """The whole extraction of some videos, against decoding alone and the bare encoder on the same frames."""
    backbone = build_backbone(backbone_name, "random").to(memory_format=torch.channels_last)
    videos = {s.video.video_id: s.video for s in cache.samples}
    jobs, frames = [], 0
    for video_id, video in videos.items():
        unit = cache.unit(video_id)
        jobs.append((data / "vidor/video" / video.path, unit, {"width": video.width, "height": video.height}))
        frames += len(unit.frames)
        if frames >= count:
            break

    def decode() -> list[np.ndarray]:
        return [np.concatenate(list(read_frames(path, unit.frames, **size))) for path, unit, size in jobs]

    decoded = seconds(decode, 3)
    pixels = [
        apply_view(p, u.views[0], backbone.mean, backbone.std) for p, (_, u, _) in zip(decode(), jobs, strict=True)
    ]

    def encode() -> None:
        with torch.inference_mode():
            for block in pixels:
                backbone(block)

    encoded = seconds(encode, 3)

    def extract() -> None:
        with tempfile.TemporaryDirectory() as out:
            run_job(job(data, Path(out) / "cache", backbone_name))

    total = sum(len(cache.unit(v).frames) for v in videos)
    everything = seconds(extract, 1) / total
    slower = max(decoded, encoded) / frames
    return [
        ("decode alone", f"{1e3 * decoded / frames:.2f} ms a frame", ""),
        (f"{backbone_name} alone", f"{1e3 * encoded / frames:.2f} ms a frame", ""),
        (
            "extraction, set-up included",
            f"{1e3 * everything:.2f} ms a frame",
            f"{everything / slower:.2f} x the slower",
        ),
    ]


def training(cache: Cache, folder: Path) -> list[tuple[str, str, str]]:
    """A training step of the tiny head, and what it costs to load its batch."""
    run = Run(folder, cache, load_experiment("tiny"), "train", CPU)
    dataset: CachedDataset = run.dataset
    order = epoch_order(dataset, 32, 4, 0, 0)[0]
    batch = dataset.collate([dataset[p] for p in order])
    load = seconds(lambda: dataset.collate([dataset[p] for p in order]), 10)
    work = seconds(lambda: step(run, [batch]), 10)
    size = f"{len(order)} sentences"
    return [
        (f"load a batch of {size}", f"{1e3 * load:.1f} ms", f"{load / work:.2f} x the step"),
        (f"training step, tiny head, {size}", f"{1e3 * work:.1f} ms", ""),
    ]


def job(data: Path, out: Path, backbone: str) -> ExtractJob:
    options = {"backbone": backbone, "backbone_weights": "random", "text_encoder": "tiny", "splits": ["train"]}
    sampling = Sampling(2.5, 40)
    return ExtractJob("vidstg", data, out, sampling, CPU, resolution=64 if backbone == "tiny" else 224, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=["tiny", "resnet101"], default="tiny")
    parser.add_argument("--frames", type=int, default=64, help="frames decoded and encoded for the comparison")
    parser.add_argument("--videos", type=int, default=24)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_vidstg(folder / "data", SyntheticConfig(train=chosen.videos, val=0, test=0))
        run_job(job(folder / "data", folder / "cache", chosen.backbone))
        cache = Cache.open(folder / "cache")
        assert cache.store.contains(video_key(cache.samples.video_ids[0]))
        rows = reading(cache, folder) + extracting(cache, folder / "data", chosen.backbone, chosen.frames)
        rows += training(cache, folder / "run")
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n\n| what | measured | ratio |\n| --- | --- | --- |"
    )
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
