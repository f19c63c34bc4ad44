"""Extractors killed at random points and disks that fail at every write: what is left, and what a repetition makes of it.

    uv run python tests/benchmarks/faults.py [--kills 200] [--writes all|N] [--damage 100] [--store zarr|hdf5] [--seed 0]

Two extractors work on one cache, and both are killed (SIGKILL) at a random moment; all the while a reader opens the cache
and reads everything it shows. Then one extractor goes on undisturbed, and the cache must equal, byte for byte, one that
was never disturbed. Every second cache is not new: it holds half of the videos, with shorter segments, other sentences and
without some targets, and is topped up. With --writes, every single write, rename and sync fails in turn with ENOSPC,
EIO and EROFS. With --damage, one byte of a file of features changes, or its end is lost, in a cache that was topped up:
`stvg cache verify` must name it, reading must name it or give the values that were there, and after --repair and a
repeated extraction every byte is as it was. Exits with 1 if anything is wrong. Everything is forked from this process,
which has its imports loaded.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  (what an extraction loads on its way, loaded here once)
import pyarrow.compute  # noqa: F401
import torch
import torchvision.ops  # noqa: F401
from annotation_files import inside, moved, write_json
from tables import heading, line

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.set_files import read_set, set_names
from stvg.cache.upkeep.verify import repair, verify
from stvg.errors import CacheError, StvgError, UsageError, WriteError
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import SyntheticConfig, write_vidstg

TOGETHER = 5
"""Files that are damaged at once."""
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def job(data: Path, out: Path, store: str, annotations: str = "all") -> ExtractJob:
    options: dict[str, Any] = {"backbone": "tiny", "resolution": 64, "store": store, "videos": data / "vidor" / "video"}
    sampling = Sampling(5.0, 40)
    return ExtractJob(
        dataset="json",
        annotations=data / annotations,
        out=out,
        sampling=sampling,
        device=torch.device("cpu"),
        batch_frames=8,
        **options,
    )


def begin(begun: Path, out: Path, number: int) -> None:
    """Every second cache is a copy of one with other annotations."""
    if number % 2:
        shutil.copytree(begun, out)


def forked(work: Callable[[], int]) -> int:
    """The process number of a copy of this process that does some work and exits with what it returns."""
    if pid := os.fork():
        return pid
    try:
        torch.set_num_threads(1)  # in the copy: this process itself never computes
        os._exit(work())
    except StvgError as error:
        print(error, file=sys.stderr)
        os._exit(1)
    finally:
        os._exit(70)


def extract(todo: ExtractJob) -> int:
    run_job(todo)
    return 0


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digests(cache: Path) -> dict[str, str]:
    files = sorted(p for p in cache.rglob("*") if p.is_file())
    return {str(p.relative_to(cache)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_all(out: Path) -> int:
    """Read every unit the cache shows, checksums compared: their number. CacheError for anything but whole units."""
    if not (out / "cache.json").exists():
        return 0
    cache = Cache.open(out)
    keys = [key for room in ("videos", "more", "text") for key in cache.store.keys(room)]
    if names := set_names(out):
        _ = read_set(out, names[0]).samples.boxes
    for key in keys:
        if problems := cache.store.check(key):
            raise CacheError(problems[0])
    return len(keys)


def kill_once(todo: ExtractJob, delay: float) -> int:
    """Two extractors, killed after ``delay`` seconds. Returns how often a reader looked meanwhile."""
    start, looks = time.perf_counter(), 0
    team = [forked(lambda: extract(todo)) for _ in range(2)]
    while (left := delay - (time.perf_counter() - start)) > 0:
        read_all(todo.out)
        looks += 1
        time.sleep(min(left, 0.01))
    for pid in team:
        os.kill(pid, signal.SIGKILL)
    for pid in team:
        exit_status(pid)
    return looks


def kills(data: Path, scratch: Path, store: str, count: int, seed: int) -> tuple[list[int], int, list[str]]:
    """Units complete at each kill, how often a reader looked, and what went wrong."""
    begun = scratch / "begun"
    assert exit_status(forked(lambda: extract(job(data, begun, store, "some")))) == 0
    expected, durations = [], []
    for number in range(2):
        whole = scratch / f"whole{number}"
        begin(begun, whole, number)
        start = time.perf_counter()
        team = [forked(lambda whole=whole: extract(job(data, whole, store))) for _ in range(2)]
        assert [exit_status(pid) for pid in team] == [0, 0]
        durations.append(time.perf_counter() - start)
        expected.append(digests(whole))
    rng, found, looks, problems = random.Random(seed), [], 0, []
    for i in range(count):
        out = scratch / f"kill{i}"
        begin(begun, out, i)
        todo = job(data, out, store)
        delay = rng.uniform(0, 1.2 * durations[i % 2])
        try:
            looks += kill_once(todo, delay)
            found.append(read_all(out))
        except CacheError as error:
            problems.append(f"kill {i} after {delay:.3f} s: a reader met {error}")
        code = exit_status(forked(lambda todo=todo: extract(todo)))
        if code or digests(out) != expected[i % 2]:
            problems.append(f"kill {i} after {delay:.3f} s: resumed with status {code} to other bytes")
        else:
            os.system(f"rm -rf '{out}'")
    return found, looks, problems


@contextmanager
def failing(folder: Path, at: int, number: int) -> Iterator[list[str]]:
    """Let the ``at``-th step that writes below ``folder`` fail with error ``number``. Yields the steps that were taken."""
    steps: list[str] = []
    prefix = str(folder)

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) - 1 == at:
            raise OSError(number, os.strerror(number))

    class File:
        """An open file whose writes count."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: Any) -> Any:
            step("write")
            return self.file.write(data)

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def opened(original: Callable[..., Any]) -> Callable[..., Any]:
        def patched(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa+") or not str(file).startswith(prefix):
                return original(file, mode, *args, **options)
            step("open")
            return File(original(file, mode, *args, **options))

        return patched

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def patched(first: Any, *args: Any, **options: Any) -> Any:
            asks = name == "mkdir" and os.path.isdir(first)  # whether a folder is there: nothing is made
            if not asks and (isinstance(first, int) or str(first).startswith(prefix)):
                step(name)
            return original(first, *args, **options)

        return patched

    kept = {name: getattr(os, name) for name in ("rename", "replace", "link", "mkdir", "fsync")}
    opens = builtins.open, io.open
    try:
        for name in kept:
            setattr(os, name, counted(name))
        builtins.open, io.open = opened(opens[0]), opened(opens[1])
        yield steps
    finally:
        builtins.open, io.open = opens
        for name, original in kept.items():
            setattr(os, name, original)


def one_failure(data: Path, out: Path, store: str, at: int, number: int) -> int:
    """In a copy of this process: 0 when one message named the failure, 2 when the step was never reached."""
    with failing(out, at, number) as steps:
        try:
            run_job(job(data, out, store))
        except (WriteError, UsageError) as error:  # the second: where a place is looked at first
            return 0 if os.strerror(number) in str(error) else 3
        return 2 if len(steps) <= at else 4


def count_writes(data: Path, out: Path, store: str) -> int:
    """Steps of an extraction that write, counted in a copy of this process."""
    ours, theirs = os.pipe()

    def work() -> int:
        with failing(out, -1, 0) as steps:
            run_job(job(data, out, store))
        os.write(theirs, str(len(steps)).encode())
        return 0

    assert exit_status(forked(work)) == 0
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        return int(pipe.read())


def writes(data: Path, scratch: Path, store: str, chosen: int | None, seed: int) -> tuple[int, int, list[str]]:
    """Steps that write, failures tried, and what went wrong. ``chosen``: as many random ones, None for all."""
    begun = scratch / f"begun-{store}"
    assert exit_status(forked(lambda: extract(job(data, begun, store, "some")))) == 0
    expected, totals, problems = [], [], []
    for kind in range(2):
        whole = scratch / f"whole-writes-{store}-{kind}"
        begin(begun, whole, kind)
        totals.append(count_writes(data, whole, store))
        expected.append(digests(whole))
    points = [(kind, at, number) for kind in range(2) for at in range(totals[kind]) for number in ERRORS]
    if chosen is not None:
        points = random.Random(seed).sample(points, min(chosen, len(points)))
    for kind, at, number in points:
        out, name = scratch / f"write{kind}-{at}-{number}", errno.errorcode[number]
        begin(begun, out, kind)
        code = exit_status(forked(lambda out=out, at=at, number=number: one_failure(data, out, store, at, number)))
        try:
            read_all(out)
        except CacheError as error:
            problems.append(f"{name} at write {at}: a reader met {error}")
        again = exit_status(forked(lambda out=out: extract(job(data, out, store))))
        if code not in (0, 2) or again or digests(out) != expected[kind]:
            problems.append(f"{name} at write {at}: ended with {code}, then {again}; or other bytes")
        else:
            os.system(f"rm -rf '{out}'")
    return sum(totals), len(points), problems


def damage(file: Path, rng: random.Random) -> None:
    """Another byte, or a lost end."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.2:
        file.write_bytes(content[:at])
    else:
        content[at] ^= rng.randrange(1, 256)
        file.write_bytes(content)


def extract_both(data: Path, out: Path, store: str) -> int:
    """Two annotation sets, the second of which tops up what the first one asked for."""
    for name in ("some", "all"):
        extract(replace(job(data, out, store, name), annotation_set=name))
    return 0


def damages(data: Path, scratch: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """Of how many files it was that something was damaged in turn, and what went wrong."""
    store, whole = "zarr", scratch / "topped-up"
    assert exit_status(forked(lambda: extract_both(data, whole, store))) == 0
    expected, rng, problems = digests(whole), random.Random(seed), []
    rooms = {"videos", "more", "text"}
    chunks = [name for name in sorted(expected) if name.split("/")[0] in rooms and "/c." in name]
    assert {name.split("/")[0] for name in chunks} == rooms
    chosen = [chunks[i % len(chunks)] for i in rng.sample(range(max(count, len(chunks))), count)]
    for at in range(0, count, TOGETHER):
        names, out = list(dict.fromkeys(chosen[at : at + TOGETHER])), scratch / f"damage{at}"
        shutil.copytree(whole, out)
        for name in names:
            damage(out / name, rng)
        said = "\n".join(problem.message for problem in verify(out).problems)
        problems += [f"{name}: verify does not name it" for name in names if unit_of(name) not in said]
        problems += [f"{name}: was read, and other values" for name in names if is_misread(out, name, whole)]
        repair(verify(out))
        code = exit_status(forked(lambda out=out: extract_both(data, out, store)))
        if code or digests(out) != expected:
            problems.append(f"{', '.join(names)}: repaired and extracted with {code} to other bytes")
        else:
            shutil.rmtree(out)
    return len(set(chosen)), problems


def unit_of(name: str) -> str:
    """The unit whose file this is: room and folder."""
    return "/".join(name.split("/")[:2])


def is_misread(out: Path, name: str, whole: Path) -> bool:
    """Whether an array whose file is damaged is read without an error, and as other values than it had.

    What follows the rows, Zarr's index of a shard, is there for other readers.
    """
    _, folder, array, _ = name.split("/")
    store = Cache.open(out).store
    key = next(k for room in ("videos", "more", "text") for k in store.keys(room) if store.place(k).name == folder)
    try:
        found = store.read(key, array)
    except CacheError:
        return False
    return found.tobytes() != Cache.open(whole).store.read(key, array).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writes", default="all", help="all, or how many")
    parser.add_argument("--damage", type=int, default=100, help="how many damaged files of features")
    parser.add_argument("--store", choices=["zarr", "hdf5"], default="zarr")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(heading(["what", "tried", "wrong"]), flush=True)
    problems = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = scratch / "data"
        assert exit_status(forked(lambda: make_videos(data, chosen.videos))) == 0
        if chosen.kills:
            found, looks, wrong = kills(data, scratch, chosen.store, chosen.kills, chosen.seed)
            spread = f"{min(found)} to {max(found)} units complete then" if found else ""
            print(line([f"SIGKILL of two extractors at a random point, {spread}", chosen.kills, len(wrong)]))
            print(line(["reading everything while they work", looks, sum("reader" in w for w in wrong)]), flush=True)
            problems += wrong
        if chosen.writes != "0":
            some = None if chosen.writes == "all" else int(chosen.writes)
            total, tried, wrong = writes(data, scratch, chosen.store, some, chosen.seed)
            print(line([f"ENOSPC, EIO, EROFS at each of {total} writes, renames and syncs", tried, len(wrong)]))
            problems += wrong
        if chosen.damage and chosen.store == "zarr":  # in an HDF5 file some bytes mean nothing
            files, wrong = damages(data, scratch, chosen.damage, chosen.seed)
            print(
                line(
                    [
                        f"one byte, or the end, of {files} files of features of a topped-up cache",
                        chosen.damage,
                        len(wrong),
                    ]
                )
            )
            problems += wrong
    print("\n".join(problems))
    raise SystemExit(1 if problems else 0)


def make_videos(folder: Path, count: int) -> int:
    write_vidstg(folder, SyntheticConfig(train=count, val=0, test=0, seed=1, frames=(48, 50)))
    read = read_annotations("vidstg", folder, "train", sampling=Sampling(5.0, 40)).samples
    read = [inside(s) for s in read]
    everything = [replace(s, segment=(0, s.video.frame_count)) for s in read]
    videos = sorted({s.video.video_id for s in read})[: (count + 1) // 2]
    some = [replace(s, segment=s.moment, sentence=f"{s.sentence} before") for s in read if s.video.video_id in videos]
    write_json(folder / "all", everything + [moved(s) for s in everything[::2]])
    write_json(folder / "some", some)
    return 0


if __name__ == "__main__":
    main()
