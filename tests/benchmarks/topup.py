"""What a repeated extraction computes when annotations changed: counts of encoded frames and sentences, and unit files.

    uv run python tests/benchmarks/topup.py [--videos 100] [--added 10] [--store zarr|hdf5]
    uv run python tests/benchmarks/topup.py --hcstvg DIR

Extracts some synthetic videos with the tiny encoders, then changes the annotations again and again on the same cache.
With --hcstvg, both versions of HC-STVG's annotations in a folder go into one cache. Prints a Markdown table; exits with 1
when a file of a unit changed that was there before.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from annotation_files import inside, moved, write_json
from tables import heading, line

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import SyntheticConfig, write_vidstg
from stvg.extract.work import Report


class Bench:
    """One cache, and the extractions into it."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.changed = folder, store, 0

    def draw(self, videos: int) -> None:
        """Make synthetic videos, and the samples that are changed."""
        write_vidstg(self.folder / "data", SyntheticConfig(train=videos, val=0, test=0, seed=1, frames=(48, 50)))
        read = read_annotations("vidstg", self.folder / "data", "train", sampling=Sampling(5.0, 100)).samples
        self.samples = [replace(inside(s), sample_id=f"s{i}") for i, s in enumerate(read)]

    def units(self) -> dict[str, str]:
        """Every file of every unit, and the SHA-256 of what it holds."""
        rooms = (self.folder / "cache" / room for room in ("videos", "more", "text"))
        files = (p for room in rooms for p in room.rglob("*") if p.is_file())
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def row(self, what: str, samples: list[Sample], split: str = "train", name: str = "set", **layout: object) -> None:
        """Extract changed annotations, and print what was done."""
        place = write_json(self.folder / "annotations", samples, split, **layout)
        self.count(what, lambda: self.extract(place, split, name))

    def count(self, what: str, work: Callable[[], Report]) -> None:
        """Print what an extraction did."""
        before = self.units()
        report = work()
        after = self.units()
        changed = sum(after.get(path) != digest for path, digest in before.items())
        self.changed += changed
        counts = (report.videos, report.topped_up, report.already, report.frames, report.sentences)
        print(line([what, *counts, len(after) - len(before), changed]), flush=True)

    def extract(self, annotations: Path, split: str, name: str) -> Report:
        chosen = {"backbone": "tiny", "resolution": 64, "store": self.store, "splits": [split], "annotation_set": name}
        videos, cpu = self.folder / "data" / "vidor" / "video", torch.device("cpu")
        job = ExtractJob(
            dataset="json",
            annotations=annotations,
            out=self.folder / "cache",
            sampling=Sampling(5.0, 100),
            device=cpu,
            videos=videos,
            **chosen,
        )
        return run_job(job)[0]


def both_versions(folder: Path, data: Path) -> int:
    """HC-STVG v1 and v2 of one folder in one cache. Returns how many files of units changed."""
    bench = Bench(folder, "zarr")
    for version in ("hcstvg-v1", "hcstvg-v2", "hcstvg-v1"):
        job = ExtractJob(
            dataset=version,
            annotations=data,
            out=folder / "cache",
            sampling=Sampling(3.0, 100),
            device=torch.device("cpu"),
            backbone="tiny",
            resolution=64,
        )
        bench.count(version, lambda job=job: run_job(job)[0])
    return bench.changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--added", type=int, default=10)
    parser.add_argument("--store", choices=["zarr", "hdf5"], default="zarr")
    parser.add_argument("--hcstvg", type=Path, help="a folder of HC-STVG with the annotations of both versions")
    chosen = parser.parse_args()
    columns = (
        "videos done",
        "topped up",
        "there already",
        "frames encoded",
        "sentences",
        "files added",
        "files changed",
    )
    with tempfile.TemporaryDirectory() as name:
        if chosen.hcstvg:
            print(heading(["annotations", *columns]))
            raise SystemExit(1 if both_versions(Path(name), chosen.hcstvg) else 0)
        bench = Bench(Path(name), chosen.store)
        bench.draw(chosen.videos + chosen.added)
        ids = sorted({s.video.video_id for s in bench.samples})
        some = [s for s in bench.samples if s.video.video_id in ids[: chosen.videos]]
        every = bench.samples
        mended = [replace(every[0], sentence="which one is it, in other words?"), *every[1:]]
        first = list({s.video.video_id: s for s in every}.values())[:3]
        longer = [replace(s, segment=(0, s.video.frame_count)) for s in every]
        print(heading(["annotations", *columns]))
        bench.row(f"{chosen.videos} videos", some)
        bench.row(f"{chosen.added} videos more", every)
        bench.row("one typo mended", mended)
        bench.row("JSON indented otherwise", mended, indent=3)
        bench.row("records in another order", mended[::-1])
        bench.row("a later split of the same videos", every[::3], "val")
        bench.row("another annotation set of the same videos", every, name="other")
        bench.row("3 new targets at known frames", [*mended, *map(moved, first)])
        bench.row("segments that reach to the ends of the videos", longer)
        bench.row("the same again", longer)
    raise SystemExit(1 if bench.changed else 0)


if __name__ == "__main__":
    main()
