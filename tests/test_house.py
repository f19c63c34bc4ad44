"""The house: imports run one way and in no circle, files fit a sitting, nothing names what it must not know."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

from .conftest import LONG

ROOT = Path(__file__).parents[1]
ROOMS = ("cache", "extract", "heads", "evaluate")
GROUND = "ground"  # the files beside cli.py that every room may use
ALLOWED = {
    GROUND: set(),
    "cache": set(),
    "extract": {"cache"},
    "heads": {"cache"},
    "evaluate": {"cache", "heads"},
}
# The only doors from a room to the pixels: drawing a demo means making and reading videos, a published split is known by
# the size that its dataset's row says, predictions of others are scored against annotation files, training an encoder
# means having it, and a published checkpoint holds encoders and head together.
DOOR_FILES = (
    *(
        "evaluate/annotation_sheet.py",
        "evaluate/demo/run.py",
        *(f"evaluate/grounding/{name}.py" for name in ("answers", "film", "predictor", "request", "videos")),
        "evaluate/picture.py",
        "evaluate/paper_figures.py",
        "evaluate/report/frames.py",
        "evaluate/report/gallery.py",
        "evaluate/scoring.py",
    ),
    *(
        "heads/training/live_encoders.py",
        "heads/training/trained_encoders.py",
        "heads/training/live_batches.py",
        "heads/import_weights.py",
    ),
)
DOORS = {f: {"extract"} for f in DOOR_FILES}
# What assembles the command line, and the library, stands above all rooms.
ROOF = {"cli.py", "__main__.py", "__init__.py", "library.py"}
SOURCES = [
    p.relative_to(ROOT)
    for p in [*sorted(ROOT.glob("*.py")), *(f for r in ROOMS for f in sorted((ROOT / r).rglob("*.py")))]
]
# So does a room's part of it, which cli.py alone imports.
INNER = [s for s in SOURCES if not s.name.endswith("commands.py") and s.as_posix() not in ROOF]
FILES_A_FOLDER = 22
LONGEST = 300


def tree(source: Path) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def module_of(parts: tuple[str, ...]) -> Path | None:
    """The source file of a module, or None for a name inside one."""
    for candidate in (Path(*parts).with_suffix(".py") if parts else Path("__init__.py"), Path(*parts, "__init__.py")):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def imports(source: Path, nodes: Iterator[ast.AST] | None = None) -> set[Path]:
    """Files of the house that ``source`` imports: ``from .a import b``, ``from . import a``, wherever the import stands."""
    found = set()
    for node in nodes or ast.walk(tree(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            here = source.parent.parts[: len(source.parent.parts) - node.level + 1]
            base = (*here, *(node.module.split(".") if node.module else ()))
            for name in node.names:
                file = module_of((*base, name.name)) or module_of(base)
                assert file, f"{source}: {node.module} names no file of the house"
                found.add(file)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any((n or "").split(".")[0] in (*ROOMS, "stvg") for n in names), f"{source}: import relatively"
    return found


def room_of(source: Path) -> str:
    return source.parts[0] if source.parts[0] in ROOMS else GROUND


@pytest.mark.parametrize("source", INNER, ids=str)
def test_imports_run_cli_to_evaluate_to_heads_to_cache_from_extract(source):
    room = room_of(source)
    allowed = ALLOWED[room] | {room, GROUND} | DOORS.get(source.as_posix(), set())
    assert {room_of(f) for f in imports(source)} <= allowed


def test_files_import_each_other_in_no_circle():
    """Imports inside functions count, those for type checkers alone do not."""
    graph = {}
    for source in SOURCES:
        graph[source] = imports(source, walk_outside_type_checking(tree(source))) - {source}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(str(f) for f in reversed(error.args[1])))


def walk_outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from walk_outside_type_checking(child)


def test_only_the_command_line_knows_the_commands():
    for source in INNER:
        assert not any(f.name.endswith("commands.py") for f in imports(source)), source


def test_commands_print_through_the_one_function_that_makes_texts_harmless():
    for source in SOURCES:
        assert source.as_posix() == "options.py" or "click.echo" not in (ROOT / source).read_text("utf-8"), source


def test_the_cache_knows_no_video_and_the_metrics_no_tensors():
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8")
        names = {a.name.split(".")[0] for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for a in n.names}
        if room_of(source) in (GROUND, "cache", "heads"):
            assert "av" not in names, source
        if source.name in ("metrics.py", "predictions.py", "tables.py"):
            assert "torch" not in names, source


def test_running_the_product_needs_only_what_it_declares():
    """And not what happens to be installed for the tests, or for another package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {named(re.split(r"[^\w.-]", entry)[0]) for entry in listed}
    declared |= {"tokenizers", "huggingface-hub"}  # whose versions transformers chooses
    installed = packages_distributions()
    for source in SOURCES:
        for node in ast.walk(tree(source)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {m.partition(".")[0] for m in modules} - sys.stdlib_module_names:
                assert declared & {named(d) for d in installed.get(module, [module])}, f"{source}: {module}"


def named(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_room_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {".".join(("stvg", *p.parent.parts)) for p in SOURCES} == set(packages)


def test_no_file_outgrew_a_sitting():
    lengths = {p.as_posix(): len((ROOT / p).read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {p: n for p, n in lengths.items() if n > LONGEST} == {}


def test_a_folder_is_seen_at_a_glance():
    folders = {p.parent for p in SOURCES}
    counts = {str(f): sum(p.parent == f and p.name != "__init__.py" for p in SOURCES) for f in folders}
    assert {f: n for f, n in counts.items() if n > FILES_A_FOLDER} == {}


def test_the_test_files_that_begin_first_exist():
    assert set(LONG) <= {p.stem for p in (ROOT / "tests").rglob("test_*.py")}
