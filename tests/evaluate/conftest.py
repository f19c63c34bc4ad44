"""What the tests of this room share: a head to ask, a video to ask of, and a browser to look with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page

from stvg.cache.index import Cache
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

from .pages import Opened, browser


@pytest.fixture(scope="session")
def checkpoint(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head after one short epoch."""
    settings = ["train.epochs=1", "train.batch_size=8", "model.ffn=32", "model.max_frames=16"]
    folder, experiment = tmp_path_factory.mktemp("run"), load_experiment("tiny", settings)
    return train(Run(folder, Cache.open(tiny_cache), experiment, "train", torch.device("cpu")))


@pytest.fixture(scope="session")
def video(synthetic: Path) -> Path:
    """A file its cache holds."""
    return min(synthetic.rglob("*.mp4"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page; afterwards nothing may have been logged, asked of a network, or popped up."""
    pages: list[Opened] = []

    def show(where: Path | str, **context: object) -> Page:
        pages.append(Opened(chromium, where, **context))
        return pages[-1].page

    yield show
    for page in pages:
        page.context.close()
        assert page.wrong == []
