"""Fixtures every test room shares."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

LONG = (
    *("test_launchers", "test_train", "test_ray", "test_ranks", "test_gpu", "test_ablation", "test_docs"),
    *("test_live_encoders", "test_objects", "test_text", "test_dtypes", "test_tokenizer", "test_predict"),
    *("test_faults", "test_runner", "test_topup", "test_import_weights", "test_weights_of_encoders", "test_browser"),
    *("test_report", "test_serve", "test_demo", "test_library", "test_wheel", "test_trackers"),
)
"""The files that take longest. They are begun first, so that the processes of a run end together."""

if "PYTEST_XDIST_WORKER" in os.environ:  # test processes share the cores; more threads than these wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Where Python is told to write no bytecode, it is kept beside pytest's own notes: the suite starts some hundred
    processes, and each would compile its libraries again, which takes twice as long as importing them."""
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Bytecode of files that tests wrote is of no use to the next run."""
    if sys.pycache_prefix and "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(sys.pycache_prefix + tempfile.gettempdir(), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def written_later() -> Iterator[None]:
    """No wait until files are on the disk, which is most of what an extraction of small videos takes: no test ends the
    power. A descriptor that is not open is still an error; what other processes write is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded reference values and real media that lies beside a development checkout.

    It is not part of the repository. A checkout without it skips the tests that need it; CI must have it.
    """
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        raise left_out(f"{folder} is not here: recorded reference values and real media cannot be compared")
    return folder


def left_out(reason: str) -> BaseException:
    """What a test that needs something this machine lacks raises: a skip, or in CI, which must have it, a failure."""
    return pytest.fail.Exception(reason, pytrace=False) if os.environ.get("CI") else pytest.skip.Exception(reason)


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def stvg(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command as the shell would, in this process: ``stvg("cache", "info", path)``."""
    from stvg.cli import main

    def run(*words: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["stvg", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Ran(int(code or 0), captured.out, captured.err)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset in VidSTG + VidOR format: 6 training and 2 test videos. Read only."""
    from stvg.extract.synthetic.dataset import SyntheticConfig, write_vidstg

    folder = tmp_path_factory.mktemp("synthetic")
    write_vidstg(folder, SyntheticConfig(train=6, val=0, test=2, seed=3))
    return folder


def extract_synthetic(data: Path, out: Path, **changes: object) -> Path:
    """A cache of a synthetic dataset with the tiny encoders."""
    import torch

    from stvg.cache.sampling import Sampling
    from stvg.extract.job import ExtractJob, run_job

    options = {
        "dataset": "vidstg",
        "annotations": data,
        "out": out,
        "sampling": Sampling(5.0, 40),
        "device": torch.device("cpu"),
        "splits": ["train", "test"],
        "backbone": "tiny",
        "resolution": 96,
        **changes,
    }
    run_job(ExtractJob(**options))
    return out


@pytest.fixture(scope="session")
def tiny_cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of ``synthetic`` at levels roi, in Zarr. Read only."""
    return extract_synthetic(synthetic, tmp_path_factory.mktemp("cache") / "cache")


@pytest.fixture(scope="session")
def lean_cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of ``synthetic`` at levels last, in Zarr. Read only.

    For extractions in processes of their own: without regions, a process does not load torchvision, which takes as long
    as torch itself.
    """
    return extract_synthetic(synthetic, tmp_path_factory.mktemp("lean") / "cache", levels="last")


@pytest.fixture
def own_cache(tiny_cache: Path, tmp_path: Path) -> Path:
    """A copy of ``tiny_cache`` that a test may damage."""
    return shutil.copytree(tiny_cache, tmp_path / "cache")


@pytest.fixture(scope="session")
def checkpoint(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head after one short epoch."""
    import torch

    from stvg.cache.index import Cache
    from stvg.heads.settings import load_experiment
    from stvg.heads.training.loop import train
    from stvg.heads.training.state import Run

    experiment = load_experiment("tiny", ["train.epochs=1", "train.batch_size=8", "model.ffn=32"])
    run = Run(tmp_path_factory.mktemp("run"), Cache.open(tiny_cache), experiment, "train", torch.device("cpu"))
    return train(run)
