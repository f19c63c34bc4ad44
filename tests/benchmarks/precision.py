"""What every stored dtype costs: error, bytes, speed, and what it does to a trained head's scores.

    uv run python tests/benchmarks/precision.py --media DIR --annotations DIR --tokenizer DIR --out bench [--seeds 3]

Errors, sizes and speeds are of ResNet-101 and RoBERTa with seeded random weights, over real videos (every file below
--media that decodes) and real sentences (VidSTG records below --annotations). Scores are of the tiny encoders on the
synthetic videos of accuracy.py at its budget: a head trained on each dtype, and the heads trained on float32 read from it.
Finished parts are kept in --out, so the command can be interrupted and repeated. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accuracy import CPU, EPOCHS, FIVE, METRICS, make_videos, of_epochs, spread
from tables import heading, line

from stvg.cache.index import Cache
from stvg.cache.stores.contract import Store
from stvg.cache.stores.kinds import open_store
from stvg.cache.stores.quantise import BLOCK_CELLS, STORED, FeatureWriter, block_rows, read_features
from stvg.cache.view import MAX_SIDE, View
from stvg.errors import VideoError
from stvg.evaluate.demo.run import RESOLUTION, SAMPLING
from stvg.evaluate.evaluation import load_head, open_split, overall, score_split, tubes_of
from stvg.extract.encoders.backbone import build_backbone
from stvg.extract.encoders.text import build_text_encoder
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.transforms import apply_view
from stvg.extract.video.decode import probe, read_frames
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

DTYPES = ("float32", "float16", "bfloat16", "uint8")
STORES = ("zarr", "hdf5")
ARRAYS = {"c3": 512, "c4": 1024, "c5": 2048, "text": 768}
FRAMES = 16
SENTENCES = 512
GRID = {"VidSTG": (6770, 181.6), "HC-STVG v1": (5660, 100), "HC-STVG v2 train + val": (12131, 100)}
"""Videos, and mean frames of a video's grid: VidSTG's of the real val and test records, HC-STVG's for 20 s at 5 fps."""
REGIONS = {"VidSTG": 1.24e6}
"""Distinct (video, target, sampled frame) of annotated moments, scaled from val and test at 100 slots. One tube to a
video in HC-STVG: at most every frame."""


# --- real features -----------------------------------------------------------------------------------------------------


def features(media: Path, records: list[dict], tokenizer: Path, folder: Path) -> Store:
    """Float32 features of every video that decodes, and of real sentences, one unit each."""
    store = open_store(folder / "exact", "zarr")
    backbone = build_backbone("resnet101", "random").to(memory_format=torch.channels_last)
    for path in sorted(p for p in media.rglob("*") if p.suffix in (".mp4", ".avi", ".mov")):
        key = f"videos/{path.relative_to(media).as_posix()}"
        if not store.contains(key) and (maps := encode(path, backbone)):
            write(store, key, "float32", maps)
    if not store.contains("text/0"):
        text = build_text_encoder("roberta-base", "random", str(tokenizer))
        sentences = list(dict.fromkeys(c["description"].strip() for r in records for c in r["captions"]))[:SENTENCES]
        encoded = [f for at in range(0, len(sentences), 32) for f in text.encode(sentences[at : at + 32])]
        write(store, "text/0", "float32", {"text": np.concatenate(encoded)})
    return store


def encode(path: Path, backbone: torch.nn.Module) -> dict[str, np.ndarray]:
    """C3, C4, C5 of some frames at 5 a second; nothing for what is no whole video."""
    try:
        facts = probe(path)
        frames = np.arange(0, facts.frames, max(1, round(facts.fps / 5)))[:FRAMES]
        pixels = np.concatenate(list(read_frames(path, frames, width=facts.width, height=facts.height)))
    except VideoError:
        return {}
    view = View.evaluation(facts.width, facts.height, 224, MAX_SIDE[224])
    with torch.inference_mode():
        levels = backbone(apply_view(pixels, view, backbone.mean, backbone.std))
    return {name: level.permute(0, 2, 3, 1).contiguous().numpy() for name, level in levels.items()}


def write(store: Store, key: str, dtype: str, arrays: dict[str, np.ndarray]) -> None:
    with store.writer(key) as unit:
        writer = FeatureWriter(unit, dtype)
        for name, array in arrays.items():
            writer.add(name, array.shape, "frame")
            writer.append(name, array, name)
        unit.commit({})


def units(exact: Store) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for key in exact.keys("videos") + exact.keys("text"):
        yield key, {name: exact.read(key, name) for name in exact.arrays(key)}


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def errors(exact: Store, folder: Path) -> str:
    """Per array and dtype: the largest error over the largest value of its unit, the root mean square over that of
    the values, and bytes a value."""
    lines = [heading(["", *DTYPES])]
    found: dict[str, list[str]] = {name: [] for name in ARRAYS}
    for dtype in DTYPES:
        store = open_store(folder / f"as-{dtype}", "zarr")
        peaks: dict[str, list[float]] = {name: [] for name in ARRAYS}
        squares: dict[str, list[tuple[float, float]]] = {name: [] for name in ARRAYS}
        for key, arrays in units(exact):
            if not store.contains(key):
                write(store, key, dtype, arrays)
            for name, whole in arrays.items():
                off = read_features(store, key, name).float().numpy() - whole
                peaks[name].append(float(np.abs(off).max() / np.abs(whole).max()))
                squares[name].append((float(np.square(off).mean()), float(np.square(whole).mean())))
        for name in ARRAYS:
            noise, power = np.sum(squares[name], axis=0)
            found[name].append(f"{100 * max(peaks[name]):.4f} / {100 * np.sqrt(noise / power):.4f}")
    lines += [line([name, *cells]) for name, cells in found.items()]
    return "\n".join(lines)


def stored_sizes(exact: Store, folder: Path) -> str:
    """Bytes of the videos' C5 and the time to read them, by dtype and store; ratios to plain float16 Zarr."""
    torch.set_num_threads(1)
    measured = {}
    videos = [(key, arrays["c5"]) for key, arrays in units(exact) if "c5" in arrays]
    for dtype in DTYPES:
        for backend in STORES:
            store = open_store(folder / f"stored-{dtype}-{backend}", backend)
            for key, array in videos:
                if not store.contains(key):
                    write(store, key, dtype, {"c5": array})
            stored = sum(size(store.place(key)) for key, _ in videos)
            measured[dtype, backend] = (stored, reading(store, [key for key, _ in videos]))
    base = measured["float16", "zarr"]
    raw = sum(array.size for _, array in videos)
    lines = [heading(["dtype", "store", "bytes a value", "size", "time to read"])]
    for (dtype, backend), (stored, spent) in measured.items():
        cells = (f"{stored / raw:.3f}", f"{stored / base[0]:.2f} x", f"{spent / base[1]:.1f} x")
        lines.append(line([dtype, backend, *cells]))
    rate = raw * 2 / base[1] / 1e9
    return "\n".join(lines) + f"\n\nPlain float16 in Zarr: {rate:.2f} GB/s, warm, one thread, checksums compared."


def reading(store: Store, keys: list[str], repeat: int = 3) -> float:
    """CPU seconds to read and decode the C5 of some units, warm: the least of some runs."""
    times = []
    for _ in range(repeat + 1):
        start = time.thread_time()
        for key in keys:
            read_features(store, key, "c5")
        times.append(time.thread_time() - start)
    return min(times[1:])


# --- whole datasets ----------------------------------------------------------------------------------------------------


def bytes_a_cell(dtype: str, shape: tuple[int, ...]) -> float:
    """Stored bytes of one value, scales included, in an array (rows, …, C) with many rows."""
    scales = 8 / (block_rows(shape) * int(np.prod(shape[1:-1]))) if dtype == "uint8" else 0.0
    return np.dtype(STORED[dtype]).itemsize + scales


def per_frame(geometries: list[tuple[int, int]], dtype: str) -> dict[str, float]:
    """Mean bytes a frame of C3, C4, C5 at 224 over some videos' (width, height)."""
    found: dict[str, list[float]] = {"c3": [], "c4": [], "c5": []}
    for width, height in geometries:
        view = View.evaluation(width, height, 224, MAX_SIDE[224])
        for name, stride in zip(found, (8, 16, 32), strict=True):
            shape = (10**6, -(-view.height // stride), -(-view.width // stride), ARRAYS[name])
            found[name].append(float(np.prod(shape[1:])) * bytes_a_cell(dtype, shape))
    return {name: float(np.mean(values)) for name, values in found.items()}


def projection(records: list[dict]) -> str:
    """Bytes of whole caches at 224 from element counts, all with the frame sizes of real VidSTG records."""
    sizes = {r["vid"]: (r["width"], r["height"]) for r in records}
    lines = [heading(["", "frames", "level", *DTYPES])]
    for dataset, (videos, grid) in GRID.items():
        frames = videos * grid
        regions = REGIONS.get(dataset, frames)
        for level in ("last", "roi", "full"):
            cells = []
            for dtype in DTYPES:
                maps = per_frame(list(sizes.values()), dtype)
                total = frames * (sum(maps.values()) if level == "full" else maps["c5"])
                if level == "roi":
                    total += regions * 16 * 1536 * bytes_a_cell(dtype, (10**6, 16, 1536))
                most = "≤ " if level == "roi" and dataset not in REGIONS else ""
                cells.append(f"{most}{total / 1e12:.2f} TB")
            lines.append(line([dataset, f"{frames / 1e6:.3f} M", level, *cells]))
    means = per_frame(list(sizes.values()), "float16")
    mean = ", ".join(f"{name.upper()} {value / 1e6:.3f} MB" for name, value in means.items())
    return "\n".join(lines) + f"\n\nFrame sizes of {len(sizes)} real videos; float16 a frame: {mean}."


# --- scores ------------------------------------------------------------------------------------------------------------


def cache_of(folder: Path, dtype: str) -> Cache:
    """The synthetic videos' cache in one dtype."""
    make_videos(folder)
    report, _ = run_job(
        ExtractJob(
            dataset="vidstg",
            annotations=folder / "data",
            out=folder / f"cache-{dtype}",
            sampling=SAMPLING,
            device=CPU,
            splits=["train", "test"],
            backbone="tiny",
            resolution=RESOLUTION,
            dtype=dtype,
            batch_frames=64,
        )
    )
    report.raise_if_asked()
    return Cache.open(folder / f"cache-{dtype}")


def score(folder: Path, checkpoint: Path, dtype: str) -> dict[str, float]:
    """Held-out scores of a head that reads one dtype's cache."""
    head = load_head(checkpoint, CPU)
    data = open_split(head, Cache.open(folder / f"cache-{dtype}"), "test")
    return overall(score_split(data, tubes_of(head.model, data, 32, CPU), "tubedetr"))


def run_one(folder: Path, dtype: str, seed: int) -> None:
    """Train and score one dtype with one seed in this process; float32's head is read from every other cache too."""
    torch.set_num_threads(1)
    cache, experiment = (
        Cache.open(folder / f"cache-{dtype}"),
        load_experiment("tiny", [*of_epochs(EPOCHS), *FIVE, f"train.seed={seed}"]),
    )
    run = Run(folder / f"runs/{dtype}-{seed}", cache, experiment, "train", CPU)
    run.resume()
    checkpoint = train(run)
    if dtype == "float32":
        read = {other: score(folder, checkpoint, other) for other in DTYPES}
        (folder / f"read-{seed}.json").write_text(json.dumps(read))
    found = {**score(folder, checkpoint, dtype), "steps": run.total_steps}
    (folder / f"{dtype}-{seed}.json").write_text(json.dumps(found))


def train_all(folder: Path, seeds: int, jobs: int) -> None:
    for dtype in DTYPES:
        cache_of(folder, dtype)

    def start(job: tuple[str, int]) -> None:
        dtype, seed = job
        command = [sys.executable, __file__, "--out", str(folder), "--run", dtype, str(seed)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print(f"seed {seed}: {dtype}", file=sys.stderr, flush=True)

    wanted = [job for job in product(DTYPES, range(seeds)) if not (folder / "{}-{}.json".format(*job)).exists()]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, wanted))


def scores(folder: Path) -> str:
    """Mean ± standard deviation over seeds: heads trained on a dtype, and float32's heads read from it."""
    lines = [heading(["dtype", *METRICS, "m_vIoU of float32's heads", "moved by", "seeds"])]
    read = [json.loads(p.read_text()) for p in sorted(folder.glob("read-*.json"))]
    for dtype in DTYPES:
        runs = [json.loads(p.read_text()) for p in sorted(folder.glob(f"{dtype}-*.json"))]
        if not runs:
            continue
        cells = [spread([100 * r[m] for r in runs]) for m in METRICS]
        moved = [100 * (r[dtype]["m_vIoU"] - r["float32"]["m_vIoU"]) for r in read]
        cells += [spread([100 * r[dtype]["m_vIoU"] for r in read]), spread(moved, 2), str(len(runs))]
        lines.append(line([dtype, *cells]))
    return "\n".join(lines)


def read_records(folder: Path) -> list[dict]:
    """All VidSTG records below a folder."""
    records = []
    for path in sorted(folder.rglob("*_annotations.json*")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            records += json.load(file)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--media", type=Path, help="folder of real videos")
    parser.add_argument("--annotations", type=Path, help="folder of real VidSTG records")
    parser.add_argument("--tokenizer", type=Path, help="folder of RoBERTa's vocabulary")
    parser.add_argument("--seeds", type=int, default=3, help="0: no training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        run_one(chosen.out, chosen.run[0], int(chosen.run[1]))
        return
    if not (chosen.media and chosen.annotations and chosen.tokenizer):
        parser.error("--media, --annotations and --tokenizer are needed")
    records = read_records(chosen.annotations)
    exact = features(chosen.media, records, chosen.tokenizer, chosen.out)
    counts = f"{len(exact.keys('videos'))} videos, {FRAMES} frames of each at most"
    print(f"## Error, % of the largest value / root mean square, % ({counts}; blocks of {BLOCK_CELLS} values)\n")
    print(errors(exact, chosen.out), end="\n\n")
    print(f"## Storing C5\n\n{stored_sizes(exact, chosen.out)}\n")
    print(f"## Whole datasets at 224\n\n{projection(records)}\n", flush=True)
    if chosen.seeds:
        train_all(chosen.out, chosen.seeds, chosen.jobs)
    print(f"## Scores on synthetic videos\n\n{scores(chosen.out)}")


if __name__ == "__main__":
    main()
