"""Killed extractors and failing disks, a few of each; tests/benchmarks/faults.py tries hundreds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).parents[1] / "benchmarks" / "faults.py"


def test_what_a_kill_or_a_failed_write_leaves_is_whole_and_resumes_to_the_same_bytes():
    words = [sys.executable, FAULTS, "--videos", "2", "--kills", "4", "--writes", "4", "--damage", "0"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = ran.stdout.strip().splitlines()[-3:]
    assert [row.rpartition("| ")[2] for row in rows] == ["0 |"] * 3, ran.stdout
