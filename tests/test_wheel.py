"""The wheel works in an empty environment: what is missing from it only shows there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = shutil.which("uv")
    assert uv, "uv builds the wheel: pip install uv"
    out = tmp_path_factory.mktemp("dist")
    source = out / "source"  # setuptools leaves a build folder where it works
    ignored = shutil.ignore_patterns(".*", "build", "typings", "*.egg-info", "__pycache__", "stvg-demo", "runs")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(uv, "build", "--wheel", "--out-dir", out, source)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_preset_and_part_of_the_pages_and_nothing_of_the_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"stvg/{p.relative_to(ROOT).as_posix()}"
        for r in ("cache", "extract", "heads", "evaluate")
        for p in (ROOT / r).rglob("*.py")
    }
    pages = [(f"evaluate/{page}", f"*.{kind}") for page in ("report", "serve") for kind in ("html", "css", "js")]
    data = [("heads/presets", "*.yaml"), *pages]
    expected |= {f"stvg/{folder}/{p.name}" for folder, kind in data for p in (ROOT / folder).glob(kind)}
    expected |= {f"stvg/{p.name}" for p in ROOT.glob("*.py")} | {"stvg/py.typed"}
    assert {n for n in names if not n.split("/")[0].endswith(".dist-info")} == expected


def test_an_empty_environment_runs_the_command_and_imports_every_room(wheel, tmp_path):
    uv = shutil.which("uv")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    run(uv, "venv", "--quiet", "--python", version, tmp_path / "empty")
    python = tmp_path / "empty/bin/python"
    pins = tmp_path / "pins.txt"
    pins.write_text(run(uv, "pip", "freeze", "--exclude-editable", "--python", sys.executable))
    run(uv, "pip", "install", "--quiet", "--python", python, "--constraint", pins, wheel)
    assert "train-head" in run(tmp_path / "empty/bin/stvg", "--help", cwd=tmp_path)
    rooms = "import stvg.cache.batches.dataset, stvg.extract.runner, stvg.heads.training.loop, stvg.evaluate.demo.run"
    where = run(python, "-c", f"{rooms}; print(stvg.cache.__file__)", cwd=tmp_path)
    assert str(tmp_path / "empty") in where
