"""All that has to be seen on a GPU, in one run: that what is computed there is right, and how fast it is.

    uv run python tests/benchmarks/gpu.py --golden ../shared/golden --out DIR [--seconds 460] [--only parity steps …]

Parity with the recorded tensors; a resumed run; step time, kernels, memory and share of the multiply rate of the three
heads from 4 to 64 clips; the rate of extraction, and what limits it; steps end to end; two ranks, where there are two GPUs.
Every part is a process of its own with a time limit: one that fails, crashes or hangs is reported with what it had found,
and the others run. Writes gpu.json and gpu.md after every part, and prints the table; exits with 1 where a part failed or
something was not right. Without a GPU the same runs on one that is pretended, on small inputs: its times say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import heading, line

LIMITS = {"parity": 60, "resume": 60, "steps": 120, "extraction": 80, "end_to_end": 90, "ranks": 50}
"""Seconds that each part may take, and what the parts before it left of theirs; all of them fit into --seconds."""
GRACE = 5
"""Seconds between asking a part to end and killing it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, default=Path("../shared/golden"), help="folder of the recorded tensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--seconds", type=float, default=sum(LIMITS.values()), help="after which no part goes on")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    last, rows = time.monotonic() + chosen.seconds, []
    end = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for part in chosen.only:
            end += LIMITS[part]
            rows += rows_of(part, Path(name), chosen.golden, min(end, last) - time.monotonic())
            gpu = Path(name, "gpu.json")
            write(chosen.out, (json.loads(gpu.read_text()) if gpu.exists() else {}) | {"rows": rows})
    print((chosen.out / "gpu.md").read_text())
    raise SystemExit(any("failed" in row or row.get("right") is False for row in rows))


def rows_of(part: str, scratch: Path, golden: Path, seconds: float) -> list[dict[str, Any]]:
    """What a part finds within some seconds, and why it found no more."""
    start, found = time.monotonic(), scratch / f"{part}.jsonl"
    failed = run(part, scratch, golden, seconds) if seconds > GRACE else "no time was left"
    rows = [json.loads(text) for text in found.read_text().splitlines()] if found.exists() else []
    if failed:  # what a part that was ended says of that is no finding
        rows = [row for row in rows if "failed" not in row] + [{"what": part, "failed": failed}]
    return [{"part": part, **row} for row in (*rows, {"what": "all", "took": time.monotonic() - start})]


def run(part: str, scratch: Path, golden: Path, seconds: float) -> str:
    """Run a part in a process of its own; why it did not end well, if it did not."""
    words = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), part, str(scratch), str(golden)]
    process = subprocess.Popen([*words, str(seconds - GRACE)], start_new_session=True)
    try:
        code = process.wait(seconds - GRACE)
    except subprocess.TimeoutExpired:
        return f"ended after {seconds - GRACE:.0f} seconds, which is its limit"
    finally:
        end(process)
    return "" if code == 0 else f"its process ended with {code}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part, and what it started: first asked to, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def write(folder: Path, found: dict[str, Any]) -> None:
    """gpu.json, and gpu.md: a table with everything after the name in one column."""
    (folder / "gpu.json").write_text(json.dumps(found, indent=1))
    rows = [
        line(
            [
                row["part"],
                row["what"],
                ", ".join(f"{k} {shown(v)}" for k, v in row.items() if k not in ("part", "what")),
            ]
        )
        for row in found["rows"]
    ]
    title = f"{found.get('gpu', 'no part began')}, torch {found.get('torch', 'unknown')}\n\n"
    (folder / "gpu.md").write_text(title + "\n".join([heading(["part", "what", "found"]), *rows]) + "\n")


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
