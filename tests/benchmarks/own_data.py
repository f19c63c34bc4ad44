"""Own data, from the export of an annotation tool to a report: the commands a user types, and what each takes.

    uv run python tests/benchmarks/own_data.py [--videos 8] [--formats cvat mot coco-vid …] [--epochs 2]

Draws small videos with several objects, writes their boxes as each tool exports them and a table of sentences, and runs
import, check, extract, train-head and report with the tiny encoders, one command each, in this process. Prints a Markdown
table of processor seconds, and the commands; exits with 1 if one fails or the annotations differ between formats.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from tables import table

from stvg.cli import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "extract"))

import tool_exports as tools

WRITERS = {
    "cvat": (tools.write_cvat, "cvat"),
    "label-studio": (tools.write_label_studio, "export.json"),
    "mot": (tools.write_mot, "mot"),
    "coco-vid": (tools.write_coco, "tracks.json"),
    "csv": (tools.write_box_table, "boxes.csv"),
}
TINY = "--backbone tiny --text-encoder tiny --resolution 64"


def commands(kind: str, path: str, epochs: int) -> dict[str, str]:
    """What is typed, by the name of the step."""
    own, cache, run = f"own/{kind}", f"cache/{kind}", f"runs/{kind}"
    settings = f"--preset tiny --set train.epochs={epochs} --set model.max_frames=40"
    return {
        "import": f"dataset import {path} --format {kind} --videos videos --sentences sentences.csv --out {own}",
        "check": f"dataset check --dataset json --annotations {own} --videos videos",
        "extract": f"extract --dataset json --annotations {own} --videos videos --out {cache} {TINY}",
        "train": f"train-head --cache {cache} --out {run} {settings} --device cpu",
        "report": f"report --checkpoint {run}/best.safetensors --cache {cache} --videos videos --out {kind}.html "
        "--device cpu",
    }


def run(command: str) -> tuple[float, int]:
    """Processor seconds, with those of processes it started, and the exit status; what it said where it failed."""
    said, before = io.StringIO(), sum(os.times()[:4])
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main(shlex.split(command), prog_name="stvg", standalone_mode=False)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    if code:
        print(f"stvg {command}\n{said.getvalue()}", file=sys.stderr)
    return sum(os.times()[:4]) - before, code


def read_targets(kind: str) -> object:
    """What an import wrote, without the names that formats give to objects."""
    found = {}
    for file in sorted(Path("own", kind).glob("[!.]*.json")):
        samples = json.loads(file.read_text())["samples"]
        found[file.name] = [(s["video"], s["sentence"], s["moment"], s["boxes"]) for s in samples]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--formats", nargs="*", choices=list(WRITERS), default=["cvat", "mot", "coco-vid"])
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    rows, failed, start = [], 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        drawn = tools.drawn_videos(Path("videos"), arguments.videos)
        tools.write_sentences(Path("sentences.csv"), drawn)
        for kind in arguments.formats:
            write, name = WRITERS[kind]
            write(Path(name), drawn)
            typed = commands(kind, name, arguments.epochs)
            took = {step: run(command) for step, command in typed.items()}
            failed += sum(code != 0 for _, code in took.values())
            size = Path(f"{kind}.html").stat().st_size / 2**20 if Path(f"{kind}.html").exists() else 0
            rows.append([kind, *(f"{seconds:.1f}" for seconds, _ in took.values()), f"{size:.1f}"])
        alike = {json.dumps(read_targets(kind), sort_keys=True) for kind in arguments.formats}
    told = sum(len(d.told) for d in drawn)
    print(f"{arguments.videos} videos, {told} sentences; processor seconds; {time.monotonic() - start:.0f} s in all\n")
    table(["format", *typed, "report, MB"], rows)
    print("The last row's commands:\n", *(f"    stvg {command}" for command in typed.values()), sep="\n")
    if len(alike) > 1:
        print("the formats gave different annotations", file=sys.stderr)
    return int(failed > 0 or len(alike) > 1)


if __name__ == "__main__":
    sys.exit(main())
