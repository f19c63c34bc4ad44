"""How fast stored features are read, as ratios within one run: one clip, cold files, delivered batches.

    uv run --group bench python tests/benchmarks/reading.py [--videos 24] [--only clips cold batches padding]

The clips are float16 C5 maps of 100 frames, 7 x 10 x 2048: 28.7 MB each. Every way reads the same clips. Each table gives
the best of interleaved rounds, each in an order of its own, since a way that follows a greedy one finds its caches cold: on
a shared machine the best is what the way itself costs. Ours compares the checksum of a chunk the first time it reads it,
zarr-python every time, nothing else here ever.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from facts import LEVELS, TEXT, VISUAL, write_tokens
from tables import table
from torch.utils.data import DataLoader, Dataset

from stvg.cache.annotations import AnnotationSet
from stvg.cache.arrays import regions_of
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.batches.order import clip_sizes, epoch_order, training_batches
from stvg.cache.index import Cache
from stvg.cache.needs import regions_at
from stvg.cache.sampling import IntArray, Sampling
from stvg.cache.schema import Recipe, Sample, Video
from stvg.cache.stores.buffers import aligned
from stvg.cache.video_unit import video_key
from stvg.cache.view import View
from stvg.extract.datasets.readers import read_annotations

FRAMES, SHAPE = 100, (7, 10, 2048)
REGIONS = {level.name: (16, level.channels) for level in LEVELS[:-1]}
TOKENS, BATCH = 14, 8
MOMENT = (30, 90)
BOX = [100.0, 100.0, 300.0, 300.0]
BYTES = FRAMES * int(np.prod(SHAPE)) * 2
ROWS = {
    "whole": slice(0, FRAMES),
    "every second frame": slice(0, FRAMES, 2),
    "60 frames": slice(20, 80),
}
READERS = 2
ANNOTATIONS = Path(__file__).parents[3] / "shared/real/vidstg/val_annotations.json.gz"

Way = Callable[[int, slice, np.ndarray], object]
"""Fills an array with some rows of a clip."""


# ---- the same clips, in every format


def clip(number: int) -> np.ndarray:
    """What a backbone leaves: half of it zero, the rest positive."""
    draws = np.random.default_rng(number).standard_normal((FRAMES, *SHAPE), dtype=np.float32)
    return np.maximum(draws, 0).astype(np.float16)


def samples(videos: int) -> list[Sample]:
    """One sentence a video, its segment all of it."""
    found = []
    for i in range(videos):
        video = Video(f"{i:04d}", f"{i:04d}.mp4", 640, 480, 5.0, FRAMES)
        boxes = np.tile(BOX, (MOMENT[1] - MOMENT[0], 1))
        found.append(Sample(i, video, f"sentence {i}", "all", "train", (0, FRAMES), MOMENT, boxes))
    return found


def write_cache(path: Path, store: str, videos: int) -> Cache:
    recipe = Recipe(VISUAL, TEXT)
    told = AnnotationSet.of("clips", "json", samples(videos))
    cache = Cache.create(path, recipe, store, {}).annotate(told)
    inside = np.arange(*MOMENT)
    wanted = regions_at(inside, np.tile(BOX, (len(inside), 1)))
    view = View.evaluation(640, 480, 224, 373).to_json()
    attributes = {"fingerprint": recipe.fingerprint, "frames": list(range(FRAMES)), "views": [view]}
    for i in range(videos):
        regions = {regions_of(k): np.full((len(inside), *shape), i, np.float16) for k, shape in REGIONS.items()}
        write_unit(cache, video_key(f"{i:04d}"), attributes, c5=clip(i), regions=wanted, **regions)
    write_tokens(cache, TOKENS)
    return cache


def write_unit(cache: Cache, key: str, attributes: dict[str, Any], **arrays: np.ndarray) -> None:
    with cache.store.writer(key) as writer:
        for name, array in arrays.items():
            writer.add(name, array.shape, array.dtype)
            writer.append(name, array)
        writer.commit(attributes)


def write_others(folder: Path, videos: int) -> None:
    """The clips as .npy, as h5py and zarr-python write them when not told how."""
    for i in range(videos):
        features = clip(i)
        np.save(folder / f"{i:04d}.npy", features)
        with h5py.File(folder / f"{i:04d}.h5", "w") as file:
            file["c5"] = features
        zarr.save_array(str(folder / f"{i:04d}.zarr"), features)


# ---- one clip


def ways(folder: Path, caches: dict[str, Cache]) -> dict[str, Way]:
    """Everything opens its file for every clip, as a dataset of many files must, but our stores, which do as they do."""

    def memmap(i: int, rows: slice, out: np.ndarray) -> None:
        np.copyto(out, np.load(folder / f"{i:04d}.npy", mmap_mode="r")[rows])

    def readinto(i: int, rows: slice, out: np.ndarray) -> None:
        row = BYTES // FRAMES
        with open(folder / f"{i:04d}.npy", "rb", buffering=0) as file:
            start = os.path.getsize(folder / f"{i:04d}.npy") - BYTES
            runs = [(rows.start, out)] if rows.step is None else zip(range(*rows.indices(FRAMES)), out, strict=True)
            for first, target in runs:
                file.seek(start + first * row)
                file.readinto(target.reshape(-1).view(np.uint8))

    def naive_h5py(i: int, rows: slice, out: np.ndarray) -> None:
        with h5py.File(folder / f"{i:04d}.h5", "r") as file:
            file["c5"].read_direct(out, np.s_[rows])

    def naive_zarr(i: int, rows: slice, out: np.ndarray) -> None:
        out[:] = zarr.open_array(str(folder / f"{i:04d}.zarr"), mode="r")[rows]

    def zarr_on_ours(i: int, rows: slice, out: np.ndarray) -> None:
        out[:] = zarr.open_group(str(caches["zarr"].store.place(video_key(f"{i:04d}"))), mode="r")["c5"][rows]

    def ours(store: str, i: int, rows: slice, out: np.ndarray) -> None:
        caches[store].store.read(video_key(f"{i:04d}"), "c5", rows, out=out)

    return {
        "numpy memmap": memmap,
        "raw readinto": readinto,
        "h5py": naive_h5py,
        "zarr-python, as it writes (zstd)": naive_zarr,
        "zarr-python on our unit": zarr_on_ours,
        "ours, Zarr": partial(ours, "zarr"),
        "ours, HDF5": partial(ours, "hdf5"),
    }


def clips_table(folder: Path, caches: dict[str, Cache], videos: int, rounds: int) -> None:
    """Seconds a clip with one thread, and with two that read a clip each; the best of all rounds."""
    chosen = ways(folder, caches)
    warm([path for path in folder.rglob("*") if path.is_file()])
    with ThreadPoolExecutor(READERS) as pool:
        for title, rows in ROWS.items():
            count = len(range(*rows.indices(FRAMES)))
            outs = [room_for(count) for _ in range(READERS)]
            best: dict[str, list[float]] = {name: [np.inf, np.inf] for name in chosen}
            numbers = chain.from_iterable(range(videos) for _ in iter(int, 1))
            draws = np.random.default_rng(0)
            for _ in range(rounds):
                for name, way in draws.permutation(np.array(list(chosen.items()), object)):
                    one, both = next(numbers), [next(numbers) for _ in outs]
                    alone = seconds(lambda: way(one, rows, outs[0]))  # noqa: B023  # called at once
                    shared = seconds(lambda: list(pool.map(way, both, [rows] * READERS, outs)))  # noqa: B023
                    best[name] = [min(best[name][0], alone), min(best[name][1], shared / READERS)]
            size, base = count * BYTES // FRAMES, best["numpy memmap"][0]
            table(
                ["one clip, warm: " + title, "1 thread", "2 threads", "x memmap, 1 thread", "x memmap, 2 threads"],
                [
                    [n, *(f"{size / t / 1e9:.1f} GB/s" for t in b), *(f"{base / t:.2f}" for t in b)]
                    for n, b in best.items()
                ],
            )


def room_for(frames: int) -> np.ndarray:
    """Memory as our batches have it, for every way alike."""
    return aligned(frames * BYTES // FRAMES).view(np.float16).reshape(frames, *SHAPE)


# ---- cold files


def evict(paths: Iterable[Path]) -> None:
    """Drop exactly these files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache by reading them, as use does. Pages that stem from writing lie in other pieces, which
    made equal reads differ by up to a third."""
    evict(paths)
    for path in paths:
        dd(path)


def cold_table(folder: Path, caches: dict[str, Cache], videos: int, rounds: int) -> None:
    """Every clip once with nothing in the page cache and checksums compared, against dd on the same files."""
    out = room_for(FRAMES)
    rows = []
    for store, cache in caches.items():
        places = [cache.store.place(video_key(f"{i:04d}")) for i in range(videos)]
        files = [p / "c5" / "c.0.0.0.0" if p.is_dir() else p for p in places]
        best = {"dd": np.inf, "ours": np.inf}
        for _ in range(rounds):
            evict(files)
            best["dd"] = min(best["dd"], seconds(lambda: [dd(file) for file in files]))  # noqa: B023
            evict(files)
            read = partial(read_all, Cache.open(cache.path), videos, out)  # which has compared no checksum yet
            best["ours"] = min(best["ours"], seconds(read))
        size = sum(f.stat().st_size for f in files)
        rate = {"dd": size / best["dd"], "ours": videos * BYTES / best["ours"]}
        rows.append([store, *(f"{r / 1e9:.2f} GB/s" for r in rate.values()), f"{rate['ours'] / rate['dd']:.2f}"])
    table(["cold clips, 1 thread", "dd bs=1M", "ours", "x dd"], rows)


def dd(path: Path) -> None:
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M"], check=True, capture_output=True)


def read_all(cache: Cache, videos: int, out: np.ndarray) -> None:
    for i in range(videos):
        cache.store.read(video_key(f"{i:04d}"), "c5", out=out)


# ---- delivered batches


class Files(Dataset[torch.Tensor]):
    """What one writes first: a .npy file a clip. No tokens, no targets, no masks."""

    def __init__(self, folder: Path, videos: int) -> None:
        self.folder, self.videos = folder, videos

    def __len__(self) -> int:
        return self.videos

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.folder / f"{i:04d}.npy"))


def ours(cache: Cache, seed: int) -> Iterator[int]:
    """Clips in every batch of one epoch: C5, regions, tokens, boxes, masks."""
    dataset = CachedDataset(cache, "train", Sampling(5.0, FRAMES), targets=tuple(REGIONS))
    order = epoch_order(dataset, BATCH, 1, 0, seed)
    yield from (len(batch.samples) for batch in training_batches(dataset, order, 0, seed, crop=False))


def loader(source: Any, workers: int = READERS, **options: Any) -> DataLoader[Any]:
    return DataLoader(source, batch_size=BATCH, num_workers=workers, persistent_workers=True, **options)


def plain_loader(cache: Cache) -> DataLoader[Any]:
    """Our dataset as any other torch dataset, for people with a loop of their own."""
    dataset = CachedDataset(cache, "train", Sampling(5.0, FRAMES), targets=tuple(REGIONS))
    return loader(dataset, shuffle=True, collate_fn=dataset.collate)


def litdata_loader(folder: Path, videos: int) -> Any:
    import litdata

    target = folder / "litdata"
    litdata.optimize(clip, list(range(videos)), str(target), num_workers=1, chunk_bytes="128MB")
    streaming = litdata.StreamingDataset(str(target), shuffle=True)
    return litdata.StreamingDataLoader(streaming, batch_size=BATCH, num_workers=READERS)


def webdataset_loader(folder: Path, videos: int) -> Any:
    import webdataset

    with webdataset.ShardWriter(str(folder / "clips-%03d.tar"), maxcount=videos // READERS, verbose=0) as sink:
        for i in range(videos):
            sink.write({"__key__": f"{i:04d}", "npy": clip(i)})
    shards = sorted(map(str, folder.glob("clips-*.tar")))
    source = webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=None).decode().to_tuple("npy")
    return loader(source.map(only))


def only(parts: tuple[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(parts[0])


def batches_table(folder: Path, caches: dict[str, Cache], videos: int, epochs: int) -> None:
    """Clips delivered per second over some epochs, the first not counted; loaders keep their workers."""
    files = Files(folder, videos)
    loaders: dict[str, Any] = {f"DataLoader over .npy, {n} workers": loader(files, n, shuffle=True) for n in (2, 8)}
    loaders |= {f"DataLoader over ours, {s}, 2 workers": plain_loader(cache) for s, cache in caches.items()}
    for name, make in {"litdata": litdata_loader, "webdataset": webdataset_loader}.items():
        if importlib.util.find_spec(name):
            loaders[f"{name}, 2 workers"] = make(folder, videos)
        else:
            print(f"{name} is not installed (uv run --group bench …): left out\n")
    epochs_of: dict[str, Callable[[int], int]] = {
        name: lambda _, found=found: sum(len(getattr(b, "samples", b)) for b in found)
        for name, found in loaders.items()
    }
    epochs_of |= {f"ours, {s}, 2 threads": lambda e, c=c: sum(ours(c, e)) for s, c in caches.items()}
    rates: dict[str, float] = {}
    for epoch in range(epochs + 1):
        for name, run in epochs_of.items():
            start = time.perf_counter()
            delivered = run(epoch)
            if epoch:
                rates[name] = max(rates.get(name, 0), delivered / (time.perf_counter() - start))
    base = rates["DataLoader over .npy, 2 workers"]
    table(
        [f"batches of {BATCH} clips, warm", "clips/s", "GB/s of C5", "x DataLoader"],
        [[n, f"{r:.0f}", f"{r * BYTES / 1e9:.1f}", f"{r / base:.2f}"] for n, r in rates.items()],
    )


# ---- padding


class Everything(CachedDataset):
    """Samples of a table, with features and boxes or without."""

    def _available(self, rows: Sequence[int]) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def _require_boxes(self, sample: Sample) -> None:
        pass


def padding_table(folder: Path) -> None:
    """Of all slots, and of all cells of all distinct frames, the share that is padding; the worst twentieth of batches."""
    read = read_annotations("vidstg", ANNOTATIONS, "val", boxes=False, on_bad_record="skip").samples
    told = AnnotationSet.of("vidstg", "vidstg", read)
    cache = Cache.create(folder / "table", Recipe(VISUAL, TEXT), "zarr", {}).seen_through(told)
    dataset = Everything(cache, "val", Sampling(), targets=())
    ids = [dataset.cache.samples.video_ids[row] for row in dataset.rows]
    shuffled = np.random.default_rng(0).permutation(len(dataset)).tolist()
    rows = []
    for size, crop in ((8, False), (16, False), (16, True), (32, False)):
        unsorted = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
        for name, order in (
            ("ours", epoch_order(dataset, size, 1, 0, 0, crop)),
            ("ours, 4 of a video together", epoch_order(dataset, size, 4, 0, 0, crop)),
            ("shuffled", unsorted),
        ):
            shares = np.array([padded(dataset, ids, batch, clip_sizes(dataset, 0, 0, crop)) for batch in order])
            held, used = shares[:, 0].sum(0), shares[:, 1].sum(0)
            worst = np.quantile(1 - shares[:, 1] / shares[:, 0], 0.95, axis=0)
            figures = [f"{100 * share:.1f} %" for share in (*(1 - used / held), *worst)]
            rows.append([f"{size}, {'cropped' if crop else 'whole clips'}, {name}", *figures])
    table(
        [f"{len(dataset):,} samples of VidSTG val, batches of", "slots", "cells", "slots, worst", "cells, worst"], rows
    )


def padded(
    dataset: CachedDataset, ids: list[str], batch: list[int], sizes: tuple[IntArray, IntArray]
) -> tuple[IntArray, IntArray]:
    """Slots and cells a batch holds, and how many of them are not padding."""
    shapes, slots = sizes
    frames: dict[str, int] = {}
    for p in batch:
        frames[ids[p]] = max(frames.get(ids[p], 0), int(slots[p]))
    cells = {ids[p]: int(shapes[p].prod()) for p in batch}
    held = len(batch) * int(slots[batch].max()), sum(frames.values()) * int(shapes[batch].max(0).prod())
    used = int(slots[batch].sum()), sum(frames[v] * cells[v] for v in frames)
    return np.array(held), np.array(used)


# ---- printing


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parts = ["clips", "cold", "batches", "padding"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=60, help="readings of a clip each way")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{chosen.videos} clips of {BYTES / 1e6:.1f} MB, {os.cpu_count()} cores, numpy {np.__version__}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        caches = {store: write_cache(folder / store, store, chosen.videos) for store in ("zarr", "hdf5")}
        write_others(folder, chosen.videos)
        files = [path for path in folder.rglob("*") if path.is_file()]
        evict(files)  # the page cache holds a file just written in other pieces than one that was read
        for file in files:
            dd(file)
        if "clips" in chosen.only:
            clips_table(folder, caches, chosen.videos, chosen.rounds)
        if "cold" in chosen.only:
            cold_table(folder, caches, chosen.videos, 3)
        if "batches" in chosen.only:
            batches_table(folder, caches, chosen.videos, 3)
        if "padding" in chosen.only:
            padding_table(folder)


if __name__ == "__main__":
    main()
