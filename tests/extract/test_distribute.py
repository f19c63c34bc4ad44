"""Dividing an extraction: however it is divided, and whoever dies, the cache is the same byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stvg.cache.sampling import Sampling
from stvg.errors import StvgError, UsageError
from stvg.extract.distribute import divide, launch, of_rank, parse_shard, run_processes
from stvg.extract.job import ExtractJob
from stvg.extract.runner import Part

from .test_runner import digests

CPU = torch.device("cpu")
STVG = str(Path(sys.executable).parent / "stvg")


def job_of(data: Path, out: Path) -> ExtractJob:
    """What ``tiny_cache`` was made with."""
    return ExtractJob(
        "vidstg", data, out, Sampling(5.0, 40), CPU, splits=["train", "test"], backbone="tiny", resolution=96
    )


def words(data: Path, out: Path) -> list[str]:
    """The same for the command line."""
    chosen = ["--dataset", "vidstg", "--annotations", data, "--split", "train", "--split", "test", "--out", out]
    return [
        "extract",
        *map(str, chosen),
        *["--backbone", "tiny", "--resolution", "96", "--max-frames", "40", "--device", "cpu"],
    ]


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_shares_of_shares_hold_every_video_once(count, shards, processes):
    videos = [str(i) for i in range(count)]
    parts = [Part(i, shards).split(k, processes) for i in range(shards) for k in range(processes)]
    found = [part.of(videos) for part in parts]
    assert sorted(v for part in found for v in part) == sorted(videos)
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="is no shard"):
        parse_shard(text)


def test_shards_are_counted_from_one():
    assert parse_shard("1/3") == Part(0, 3)
    assert parse_shard("3/3") == Part(2, 3)


def test_devices_are_given_to_processes_in_turn_and_to_ranks_by_their_number(tmp_path):
    job = job_of(tmp_path, tmp_path)
    devices = [torch.device("cuda", i) for i in range(2)]
    assert [j.device.index for j in divide(job, devices, 4)] == [0, 1, 0, 1]
    rank = of_rank(replace(job, device=devices[0]), {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert (rank.device, rank.part) == (devices[1], Part(5, 8))
    with pytest.raises(UsageError, match="torchrun"):
        of_rank(job, {"RANK": "5"})


def test_two_processes_write_the_same_bytes_as_one_and_report_them_together(synthetic, tiny_cache, tmp_path):
    report, _ = launch(job_of(synthetic, tmp_path / "c"), "local", [CPU], 2)
    assert report.videos == 8
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_two_shards_into_one_folder_write_the_same_bytes(stvg, synthetic, tiny_cache, tmp_path):
    for shard in ("2/2", "1/2"):
        ran = stvg(*words(synthetic, tmp_path / "c"), "--shard", shard)
        assert "4 videos done" in ran.out
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_shards_in_folders_of_their_own_are_merged_to_the_same_bytes(stvg, synthetic, tiny_cache, tmp_path):
    for shard in ("1/2", "2/2"):
        ran = stvg(*words(synthetic, tmp_path / shard[0]), "--shard", shard)
        assert ran.code == 0, ran.err
    merged = stvg("cache", "merge", tmp_path / "c", tmp_path / "2", tmp_path / "1")
    assert merged.code == 0, merged.err
    assert digests(tmp_path / "c") == digests(tiny_cache)
    assert stvg("cache", "verify", tmp_path / "c").code == 0


def test_two_uncoordinated_extractors_write_the_same_bytes(synthetic, tiny_cache, tmp_path):
    command = [STVG, *words(synthetic, tmp_path / "c")]
    team = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in team] == [0, 0]
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_ranks_of_torchrun_write_the_same_bytes(synthetic, tiny_cache, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    ran = subprocess.run(
        [*run, STVG, *words(synthetic, tmp_path / "c"), "--launcher", "torchrun"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("4 videos done") == 2
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_ray_writes_the_same_bytes_although_a_worker_is_killed(synthetic, tiny_cache, tmp_path):
    marker = {"STVG_TEST_RUN": str(tmp_path)}
    process = subprocess.Popen(
        [STVG, *words(synthetic, tmp_path / "c"), "--launcher", "ray", "--processes", "2"],
        env={**os.environ, **marker, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed = 0
    while process.poll() is None and not killed:
        if (tmp_path / "c" / "samples.parquet").exists():
            for pid in ray_workers(f"STVG_TEST_RUN={tmp_path}"):
                os.kill(pid, signal.SIGKILL)
                killed += 1
                break
        time.sleep(0.01)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert killed
    assert "extract: " in out
    assert digests(tmp_path / "c") == digests(tiny_cache)


def ray_workers(marker: str) -> list[int]:
    """Processes at work on a task, of the one cluster that has the marker in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            task = folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(b"ray::_attempt_at")
            if task and marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def test_an_error_in_one_process_is_raised_when_the_others_have_finished(synthetic, tmp_path):
    good, bad = divide(job_of(synthetic, tmp_path / "c"), [CPU], 2)
    with pytest.raises(UsageError, match="no geometry"):
        run_processes([good, replace(bad, resolution=97)])
    assert len(list((tmp_path / "c" / "videos").iterdir())) == 4


def test_a_process_that_dies_is_an_error_that_says_what_to_do(synthetic, tmp_path):
    class Deadly:
        """Kills the process that opens it."""

        def __reduce__(self):
            return os._exit, (9,)

    with pytest.raises(StvgError, match="died"):
        run_processes([replace(job_of(synthetic, tmp_path / "c"), weights_seed=Deadly())])
