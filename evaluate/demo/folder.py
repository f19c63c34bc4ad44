"""The folder of a demo: which demo it belongs to, and which files of an earlier demo can be used."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...atomic import TEMPORARY, make_folder, write_atomic
from ...errors import UsageError
from .request import NOTHING, TINY

RECORD = "demo.json"
"""Records which demo a folder holds."""
OWN = ("data", "cache", "run", "predictions.jsonl", "grounding.png", "report.html")
"""Files and folders that a demo writes. Nothing else in its folder is changed."""
SHARED = ("seed", "encoders")
"""Options that a full demo shares with the quick one that it may follow."""


def claim(out: Path, wanted: Mapping[str, Any]) -> bool:
    """Make ``out`` the folder of this demo. Returns whether an earlier start of the same demo is continued.

    ``wanted``: all options that affect the files, by name, including ``quick``, ``seed`` and ``encoders``. If a full demo
    follows a quick one with the same seed and encoders, the files of the quick one are moved to ``out``/quick.

    Raises UsageError if the folder holds something else, or a demo with other options.
    """
    record = out / RECORD
    if not record.exists():
        if out.exists() and (not out.is_dir() or any(not p.name.startswith(TEMPORARY) for p in out.iterdir())):
            raise UsageError(
                f"{out} is not empty and holds no demo to go on with",
                effect=NOTHING,
                hint="remove it, or choose another --out",
            )
        make_folder(out)
        write_atomic(record, json.dumps(wanted, indent=1) + "\n")
        return False
    found = _read(record)
    if found == dict(wanted):
        return True
    if found.get("quick") and not wanted["quick"] and all(found.get(name) == wanted[name] for name in SHARED):
        make_folder(out / "quick")
        for name in OWN:
            if (out / name).exists():
                os.replace(out / name, _free(out / "quick" / name))
        write_atomic(record, json.dumps(wanted, indent=1) + "\n")
        return False
    other, go_on = "", f", or go on with that one: stvg demo {_options(found)} --out {shlex.quote(str(out))}"
    if _options(found) == _options(wanted):
        other, go_on = ", of another version of stvg", ""
    raise UsageError(
        f"{out} holds a demo with other options",
        expected=_options(wanted),
        found=f"{_options(found)}{other}",
        effect=NOTHING,
        hint=f"choose another --out{go_on}",
    )


def write_folder(folder: Path, write: Callable[[Path], None]) -> bool:
    """Write a folder atomically: it appears when it is complete. Returns False if it exists already."""
    if folder.exists():
        return False
    unfinished = folder.parent / f"{TEMPORARY}{folder.name}"
    if unfinished.exists():  # left by a demo that was killed
        shutil.rmtree(unfinished)
    write(unfinished)
    os.replace(unfinished, folder)
    return True


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{record} cannot be read", found=error, effect=NOTHING, hint="choose another --out") from None
    return {"encoders": str(TINY), **found} if isinstance(found, dict) else {}  # there was no choice before


def _free(path: Path) -> Path:
    """A path that does not exist yet. Files of an earlier quick demo may exist under the given path."""
    tried = (path.with_name(f"{path.name}.{i}") for i in range(1, 1000))
    return path if not path.exists() else next(p for p in tried if not p.exists())


def _options(of: Mapping[str, Any]) -> str:
    given = [f"--{name} {shlex.quote(str(of.get(name)))}" for name in SHARED]
    return " ".join(["--quick", *given] if of.get("quick") else given)
