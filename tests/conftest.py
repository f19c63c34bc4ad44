"""Fixtures every test room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded reference values and real media that lies beside a development checkout.

    It is not part of the repository. A checkout without it skips the tests that need it; CI must have it.
    """
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        message = f"{folder} is not here: recorded reference values and real media cannot be compared"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
