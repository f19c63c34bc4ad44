"""The structure of the house: imports run one way, files fit a sitting, nothing names what it must not know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cache", "extract", "heads", "evaluate")
ALLOWED = {
    "cache": set(),
    "extract": {"cache"},
    "heads": {"cache"},
    "evaluate": {"cache", "heads"},
}
# The only doors from a room to the pixels: drawing a demo means making and reading videos, training an encoder means having
# it, and a published checkpoint holds encoders and head together.
DOOR_FILES = (
    *(
        "evaluate/demo.py",
        "evaluate/film.py",
        "evaluate/picture.py",
        "evaluate/predict.py",
        "evaluate/report/frames.py",
        "evaluate/report/gallery.py",
    ),
    *("heads/finetune.py", "heads/online.py", "heads/published.py"),
)
DOORS = {f: {"extract"} for f in DOOR_FILES}
SOURCES = [p.relative_to(ROOT) for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
# A room's part of the command line stands above all rooms, like cli.py, which alone imports it.
INNER = [s for s in SOURCES if not s.name.endswith("commands.py")]


def imported_rooms(source: Path) -> set[str]:
    """Rooms a file imports from, wherever in the file the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            here = source.parent.parts[: len(source.parent.parts) - node.level + 1]
            rooms.add((*here, *(node.module or "").split("."))[0])
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any((n or "").split(".")[0] in (*ROOMS, "stvg") for n in names), f"{source}: import relatively"
    return rooms & set(ROOMS)


@pytest.mark.parametrize("source", INNER, ids=str)
def test_imports_run_cli_to_evaluate_to_heads_to_cache_from_extract(source):
    room = source.parts[0]
    allowed = ALLOWED[room] | {room} | DOORS.get(source.as_posix(), set())
    assert imported_rooms(source) <= allowed


def test_only_the_command_line_knows_the_commands():
    for source in INNER:
        nodes = ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8")))
        assert not any(isinstance(n, ast.ImportFrom) and (n.module or "").endswith("commands") for n in nodes), source


def test_commands_print_through_the_one_function_that_makes_texts_harmless():
    for source in [*SOURCES, Path("cli.py")]:
        assert source.as_posix() == "cache/options.py" or "click.echo" not in (ROOT / source).read_text("utf-8"), source


def test_the_cache_knows_no_video_and_the_metrics_no_tensors():
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8")
        names = {a.name.split(".")[0] for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
        if source.parts[0] in ("cache", "heads"):
            assert "av" not in names, source
        if source.name in ("metrics.py", "predictions.py", "tables.py"):
            assert "torch" not in names, source


def test_every_room_is_in_the_wheel():
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(("stvg", *p.parent.parts)) for p in SOURCES}
    assert found | {"stvg"} == set(packages)


def test_no_file_outgrew_a_sitting():
    long = {p.as_posix(): n for p in SOURCES if (n := len((ROOT / p).read_text(encoding="utf-8").splitlines())) > 460}
    assert long == {}
