"""How a cache of real table size opens: 7,000 videos, 100,000 sentences, boxes of about 100 frames each; tiny features.

    uv run python tests/benchmarks/opening.py [--videos 7000] [--sentences 100000] [--store zarr|hdf5] [--keep FOLDER]

Every row is measured in a process of its own, files in the page cache. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from facts import SMALL, TEXT, write_tokens
from tables import heading, line

from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.sampling import video_grid
from stvg.cache.schema import Recipe, Sample, Video
from stvg.cache.video_unit import video_key
from stvg.cache.view import View

MEASURE = """
import json, sys, time
from pathlib import Path
path, what = Path(sys.argv[1]), sys.argv[2]
def memory(line="VmRSS"):
    return int(next(l for l in open("/proc/self/status") if l.startswith(line)).split()[1]) / 1e3
if what in ("open", "list", "verify"):
    from stvg.cache.index import Cache
    from stvg.cache.upkeep.verify import verify
else:
    from stvg.cache.index import Cache
    from stvg.cache.batches.dataset import CachedDataset
    from stvg.cache.sampling import Sampling
    from stvg.cache.batches.order import epoch_order
before, start = memory(), time.perf_counter()
if what == "verify":
    units = verify(path).units
else:
    cache = Cache.open(path, "clips")
    samples = len(cache.samples)
    if what == "list":
        start = time.perf_counter()
        units = len(cache.store.keys("videos"))
    if what in ("dataset", "batch"):
        dataset = CachedDataset(cache, "train", Sampling(5.0, 100), ())
    if what == "batch":
        order = epoch_order(dataset, 32, 1, 0, 0)
        batch = dataset.collate([dataset[p] for p in order[0]])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "before": before, "after": memory(), "peak": memory("VmHWM")}))
"""


def make(path: Path, videos: int, sentences: int, store: str, sets: int) -> None:
    """Boxes are whole pixels that move slowly, as annotated ones do."""
    rng = np.random.default_rng(0)
    recipe = Recipe(SMALL, replace(TEXT, width=8), keep="last")
    known = [Video(f"{i:05d}", f"{i % 100:02d}/{i}.mp4", 640, 480, 29.97, 900) for i in range(videos)]
    samples = []
    for i in range(sentences):
        start = int(rng.integers(0, 600))
        length = int(rng.integers(50, 151))
        path_of_box = np.cumsum(rng.integers(-2, 3, (length, 2)), axis=0) + rng.integers(100, 300, 2)
        boxes = np.concatenate([path_of_box, path_of_box + rng.integers(20, 100, 2)], axis=1).astype(np.float64)
        span = (start, start + length)
        sentence = f"what does the {rng.integers(60)} person do {i // 2} times"
        split = "train" if i % 10 else "test"
        video = known[i * videos // sentences]
        samples.append(Sample(i, video, sentence, "declarative", split, (0, 900), span, boxes, str(i % 5)))
    annotations = AnnotationSet.of("clips", "json", samples)
    cache = Cache.create(path, recipe, store, {}).annotate(annotations)
    for number in range(1, sets):
        cache.annotate(replace(annotations, name=f"clips{number}"))
    frames = video_grid([(0, 900)], 29.97, 5.0)
    attributes = {"frames": frames.tolist(), "views": [View(640, 480, 298, 224).to_json()]}
    attributes |= {"fingerprint": recipe.fingerprint}
    values = np.zeros((len(frames), 2, 2, 8), np.float16)
    for video in known:
        with cache.store.writer(video_key(video.video_id)) as unit:
            unit.add("c5", values.shape, values.dtype)
            unit.append("c5", values)
            unit.add("c5_sums", (2, 8), np.float64)
            unit.append("c5_sums", np.zeros((2, 8)))
            unit.commit(attributes)
    write_tokens(cache, 12)


def measure(path: Path, what: str) -> dict[str, float]:
    """The second of two runs, so that files are in the page cache."""
    for _ in range(2):
        ran = subprocess.run([sys.executable, "-c", MEASURE, path, what], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=7000)
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--store", choices=["zarr", "hdf5"], default="zarr")
    parser.add_argument("--sets", type=int, default=5, help="annotation sets, all of them of this size")
    parser.add_argument("--keep", type=Path, help="make the cache here, and use it again next time")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = chosen.keep or Path(scratch) / "cache"
        if not (path / "cache.json").exists():
            start = time.perf_counter()
            with mock.patch(
                "os.fsync"
            ):  # nothing here must survive a power cut, and 7,000 units are synced for minutes
                make(path, chosen.videos, chosen.sentences, chosen.store, chosen.sets)
            print(f"made in {time.perf_counter() - start:.0f} s\n")
        table = sum(file.stat().st_size for file in path.glob("annotations/*.parquet"))
        print(
            f"{chosen.videos:,} videos, {chosen.sentences:,} sentences, {chosen.store}; "
            f"the tables of {len(list(path.glob('annotations/*.json')))} annotation sets {table / 1e6:.0f} MB\n"
        )
        print(heading(["what", "seconds", "MB before", "MB after", "peak MB"]))
        names = {
            "open": "open the cache and one of its annotation sets",
            "list": "list its videos",
            "dataset": "open it, and a training split",
            "batch": "open it, a split, its order and one batch of 32",
            "verify": "verify everything",
        }
        for what, name in names.items():
            found = measure(path, what)
            cells = [f"{found['seconds']:.2f}", *(f"{found[k]:.0f}" for k in ("before", "after", "peak"))]
            print(line([name, *cells]), flush=True)


if __name__ == "__main__":
    main()
