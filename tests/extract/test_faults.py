"""Killed extractors and failing disks, a few of each; tests/benchmarks/faults.py tries hundreds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.parametrize("words", [["--kills", "5", "--writes", "0"], ["--kills", "0", "--writes", "6"]])
def test_what_a_kill_or_a_failed_write_leaves_is_whole_and_resumes_to_the_same_bytes(words):
    ran = subprocess.run([sys.executable, FAULTS, "--videos", "2", *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip().endswith("| 0 |")
