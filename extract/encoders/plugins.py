"""Encoders of users: a class in a file, in an installed package, or registered as an entry point of ``stvg.encoders``.

The hash of a plugin covers the source file of its class, and the files of the same folder or package that it imports,
directly or not.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import EncoderError, StvgError, UsageError
from ...wording import first_line
from .contract import CPU, Origin

if TYPE_CHECKING:
    from .kinds import EncoderRequest

GROUP = "stvg.encoders"
"""Entry-point group of encoder classes."""


def registered() -> list[str]:
    """The names of installed entry points."""
    return sorted(point.name for point in entry_points(group=GROUP))


def is_plugin(name: str) -> bool:
    """Whether a name has the form ``file.py:Class`` or ``package:Class``, or is an entry point's."""
    return name in registered() or bool(name.partition(":")[2])


def build_plugin(asked: EncoderRequest, wrapper: Any) -> Any:
    """Find the class of a name, instantiate and wrap it. ``wrapper``: `Backbone` or `TextEncoder`.

    Raises UsageError if there is no such class, EncoderError if its constructor fails.
    """
    with importable(asked.name):
        kind, recorded = find_class(asked.name)
        sources = sources_of(kind)

        def make(device: torch.device) -> Any:
            options = {} if asked.tokenizer is None else {"tokenizer": asked.tokenizer}
            with importable(asked.name), torch.random.fork_rng(devices=[]):
                torch.manual_seed(asked.seed)  # seeds classes that draw random weights
                try:
                    return kind(asked.weights, device, **options)
                except StvgError:
                    raise
                except (Exception, SystemExit) as error:
                    raise EncoderError(
                        f"encoder {asked.name} could not be made",
                        expected=f"{kind.__name__}(weights, device) with weights {asked.weights!r}",
                        found=f"{type(error).__name__}: {first_line(error)}",
                    ) from error

        encoder = make(asked.device)
    source = f"random, seed {asked.seed}" if asked.random else str(asked.weights or "its own")
    files = "" if has_modules(encoder) else content_of(asked.weights)
    extra = json.dumps([kind.__qualname__, [hash_of(file) for file in sources], files]).encode()
    said = f"{source}; class {kind.__name__} of {', '.join(map(str, sources))}"
    return wrapper(encoder, Origin(recorded, said, extra, make if asked.device == CPU else None))


def find_class(name: str) -> tuple[type, str]:
    """The class of a plugin's name, and the name that a recipe records (without folders of this machine)."""
    point = next((p for p in entry_points(group=GROUP) if p.name == name), None)
    place, _, attribute = point.value.partition(":") if point else name.rpartition(":")
    if place.endswith(".py"):
        module, recorded = module_of_file(Path(place)), f"{Path(place).name}:{attribute}"
    else:
        try:
            module, recorded = importlib.import_module(place), name
        except ImportError as error:
            raise UsageError(f"there is no package {place!r} for encoder {name!r}", found=first_line(error)) from None
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise UsageError(
            f"{place} has no class {attribute!r}", found=f"classes {', '.join(classes)}" if classes else "no classes"
        )
    return found, recorded


def module_of_file(file: Path) -> ModuleType:
    """Import a file as a module. Raises UsageError if it does not exist or cannot be imported."""
    if not file.is_file():
        raise UsageError(f"there is no file {file}", expected="file.py:Class, with the path of an existing file")
    name = f"stvg_plugin_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"{file} cannot be imported", found=f"{type(error).__name__}: {first_line(error)}") from error
    return module


@contextmanager
def importable(name: str) -> Iterator[None]:
    """Let a plugin's file import files of its folder."""
    place = name.rpartition(":")[0]
    before = sys.path[:]
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def sources_of(kind: type) -> list[Path]:
    """The class's file, and the files of its folder or package that it imports, directly or not; sorted.

    Raises UsageError if a module of the same name was already loaded from another place: Python would use that one.
    """
    own = Path(inspect.getfile(kind)).resolve()
    depth = (
        0 if kind.__module__.startswith("stvg_plugin_") else kind.__module__.count(".") + (own.name == "__init__.py")
    )
    root = own.parents[depth]
    found, waiting = {own}, [own]
    while waiting:
        for name, file in imported(waiting.pop(), root):
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and Path(loaded).resolve() != file:
                raise UsageError(
                    f"encoder {kind.__name__} imports {name}", expected=file, found=f"{loaded}, loaded before"
                )
            if file not in found:
                found.add(file)
                waiting.append(file)
    return sorted(found)


def imported(file: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of the modules below ``root`` that a file imports, at any place in its code."""
    package = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_bytes())):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = (*base, *(node.module.split(".") if node.module else ()))
            names = [base, *((*base, alias.name) for alias in node.names)]
        for parts in filter(None, names):
            for candidate in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")):
                if candidate.is_file():
                    yield ".".join(parts), candidate.resolve()


def has_modules(encoder: Any) -> bool:
    """Whether the encoder is or has an ``nn.Module``, so that its weights can be hashed as a state dict."""
    return isinstance(encoder, nn.Module) or any(isinstance(v, nn.Module) for v in vars(encoder).values())


def content_of(weights: str | None) -> str:
    """Hash of a weights file, or of all files of a folder; empty if there is none."""
    place = Path(weights or "")
    if not weights or not place.exists():
        return ""
    files = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
    return hashlib.sha256("".join(hash_of(file) for file in files).encode()).hexdigest()


def hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
