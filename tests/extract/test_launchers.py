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
from stvg.extract import job as job_module
from stvg.extract.commands import ENDED
from stvg.extract.job import ExtractJob
from stvg.extract.launchers.local import run as run_processes
from stvg.extract.launchers.parts import Assigned, Part, assigned_part
from stvg.extract.launchers.table import divide, launch
from stvg.extract.request import own_device

from .test_runner import digests

CPU = torch.device("cpu")
STVG = str(Path(sys.executable).parent / "stvg")


def job_of(data: Path, out: Path, levels: str = "last") -> ExtractJob:
    """What ``lean_cache`` was made with; at levels roi, ``tiny_cache``."""
    return ExtractJob(
        dataset="vidstg",
        annotations=data,
        out=out,
        sampling=Sampling(5.0, 40),
        device=CPU,
        splits=["train", "test"],
        backbone="tiny",
        resolution=96,
        levels=levels,
    )


def words(data: Path, out: Path, levels: str = "last") -> list[str]:
    """The same for the command line."""
    chosen = ["--dataset", "vidstg", "--annotations", data, "--split", "train", "--split", "test", "--out", out]
    return [
        "extract",
        *map(str, chosen),
        *["--backbone", "tiny", "--resolution", "96", "--max-frames", "40", "--device", "cpu"],
        *["--levels", levels],
    ]


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_shares_of_shares_hold_every_video_once(count, shards, processes):
    videos = [str(i) for i in range(count)]
    parts = [Part(i, shards).split(k, processes) for i in range(shards) for k in range(processes)]
    found = [part.of(videos) for part in parts]
    assert sorted(v for part in found for v in part) == sorted(videos)
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "", "Auto"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="is no shard"):
        assigned_part(text, {"RANK": "0", "WORLD_SIZE": "2"})


def test_shards_are_counted_from_one():
    assert assigned_part("1/3", {}) == Assigned(Part(0, 3))
    assert assigned_part("3/3", {"RANK": "0", "WORLD_SIZE": "2"}) == Assigned(Part(2, 3))


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
ENVIRONMENTS = {
    "torchrun": ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Part(5, 8), 1),
    "torchrun under srun": (
        {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        Part(5, 8),
        None,
    ),
    "SkyPilot": ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "3"}, Part(1, 3), None),
    "srun": (
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"},
        Part(3, 4),
        0,
    ),
    "tasks": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Part(0, 4), None),
    "array from 0": ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(3, 4), None),
    "array in twos": ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, Part(2, 4), None),
    "array, script": (
        {**ARRAY, "SLURM_ARRAY_TASK_ID": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},
        Part(0, 4),
        None,
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_process_finds_its_part_in_the_environment_and_says_how(name):
    environment, part, device = ENVIRONMENTS[name]
    given = assigned_part("auto", environment)
    assert (given.part, given.device) == (part, device)
    assert f"shard {part.index + 1}/{part.count}, by " in given.why
    assert any(f"{variable}={value}" in given.why for variable, value in environment.items())


def test_tasks_of_an_array_that_start_several_processes_each_divide_all_videos():
    parts = [
        assigned_part(
            "auto",
            {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "3", "RANK": str(k), "WORLD_SIZE": "2"},
        )
        for i in range(3)
        for k in range(2)
    ]
    assert sorted((p.part.index, p.part.count) for p in parts) == [(i, 6) for i in range(6)]
    assert [p.quiet for p in parts] == [False, True] * 3


def test_an_environment_that_says_nothing_or_leaves_a_share_to_nobody_is_refused():
    with pytest.raises(UsageError, match="no environment variable assigns") as caught:
        assigned_part("auto", {"SLURM_ARRAY_TASK_ID": "3"})
    expected = caught.value.facts["expected"]
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SKYPILOT_NODE_RANK", "RANK and WORLD_SIZE"):
        assert name in expected
    gaps = {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "2"}
    for environment, said in (
        (gaps, "array with gaps"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "is none of"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "is not a number"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, "batch script"),
    ):
        with pytest.raises(UsageError) as caught:
            assigned_part("auto", environment)
        assert said in str(caught.value)


def test_devices_are_given_to_processes_in_turn_and_to_ranks_by_their_number(tmp_path, monkeypatch):
    job = job_of(tmp_path, tmp_path)
    devices = [torch.device("cuda", i) for i in range(2)]
    assert [j.device.index for j in divide(job, devices, 4)] == [0, 1, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda"), 3) == devices[1]
    assert own_device(devices[0], 1) == devices[0]
    assert own_device(CPU, 1) == CPU
    assert own_device(torch.device("cuda"), None) == torch.device("cuda")


def test_two_processes_write_the_same_bytes_as_one_and_report_them_together(synthetic, lean_cache, tmp_path):
    report, _ = launch(job_of(synthetic, tmp_path / "c"), "local", [CPU], 2)
    assert report.videos == 8
    assert digests(tmp_path / "c") == digests(lean_cache)


def test_two_shards_into_one_folder_write_the_same_bytes(stvg, synthetic, tiny_cache, tmp_path):
    for shard in ("2/2", "1/2"):
        ran = stvg(*words(synthetic, tmp_path / "c", "roi"), "--shard", shard)
        assert "4 videos done" in ran.out
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_shards_in_folders_of_their_own_are_merged_to_the_same_bytes(stvg, synthetic, tiny_cache, tmp_path):
    for shard in ("1/2", "2/2"):
        ran = stvg(*words(synthetic, tmp_path / shard[0], "roi"), "--shard", shard)
        assert ran.code == 0, ran.err
    merged = stvg("cache", "merge", tmp_path / "c", tmp_path / "2", tmp_path / "1")
    assert merged.code == 0, merged.err
    assert digests(tmp_path / "c") == digests(tiny_cache)
    assert stvg("cache", "verify", tmp_path / "c").code == 0


def test_two_uncoordinated_extractors_write_the_same_bytes(stvg, synthetic, lean_cache, tmp_path):
    command = words(synthetic, tmp_path / "c")
    with subprocess.Popen([STVG, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        while not (tmp_path / "c" / "cache.json").exists():
            time.sleep(0.005)
        assert stvg(*command).code == 0
        assert other.wait() == 0
    assert digests(tmp_path / "c") == digests(lean_cache)


def test_ranks_of_torchrun_write_the_same_bytes(synthetic, lean_cache, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    ran = subprocess.run(
        [*run, STVG, *words(synthetic, tmp_path / "c"), "--shard", "auto"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("4 videos done") == 2
    assert "shard 2/2, by RANK=1, WORLD_SIZE=2" in ran.stderr
    assert digests(tmp_path / "c") == digests(lean_cache)


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

    job = job_of(synthetic, tmp_path / "c")
    with pytest.raises(StvgError, match="died"):
        run_processes([replace(job, weights_seed=Deadly())] * 2)


# --- being asked to end -----------------------------------------------------------------------------------------------


class AskedAfter:
    """A progress display that asks its own process to end after some videos."""

    def __init__(self, number: int, after: int) -> None:
        self.number, self.after = number, after

    def plan(self, text: str) -> None:
        pass

    def total(self, count: int) -> None:
        pass

    def frames(self, count: int) -> None:
        pass

    def __call__(self, *_: object) -> None:
        self.after -= 1
        if self.after == 0:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_who_is_asked_to_end_finishes_the_videos_in_flight_and_goes_on_later(synthetic, tiny_cache, tmp_path, number):
    report, _ = launch(job_of(synthetic, tmp_path / "c", "roi"), "local", [CPU], 1, AskedAfter(number, 2))
    assert report.ended == number
    assert 2 <= report.videos < 8
    assert len(list((tmp_path / "c" / "videos").iterdir())) == report.videos
    report, _ = launch(job_of(synthetic, tmp_path / "c", "roi"), "local", [CPU], 1)
    assert not report.ended
    assert digests(tmp_path / "c") == digests(tiny_cache)


def test_who_is_asked_to_end_before_the_first_video_ends_at_once(synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "prepare", lambda job, encoders=None: signal.raise_signal(signal.SIGTERM))
    report, _ = launch(job_of(synthetic, tmp_path / "c"), "local", [CPU], 1)
    assert report.ended == signal.SIGTERM
    assert not (tmp_path / "c").exists()


def test_a_command_that_is_asked_to_end_says_to_repeat_it(synthetic, lean_cache, tmp_path):
    """As Slurm asks, every process: extractor and decoders."""
    command = [STVG, *words(synthetic, tmp_path / "c"), "--processes", "2", "--batch-frames", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as asked:
        while asked.poll() is None and not [*tmp_path.glob("c/videos/[0-9]*")]:
            time.sleep(0.005)
        os.killpg(asked.pid, signal.SIGUSR1)
        out, err = asked.communicate()
    assert asked.returncode == ENDED == 75, err
    assert "ended by SIGUSR1 before all was done; repeat the command" in out
    assert "0 skipped" in out
    launch(job_of(synthetic, tmp_path / "c"), "local", [CPU], 1)
    assert digests(tmp_path / "c") == digests(lean_cache)
