"""Options and parameter types that several commands share, and the class of command groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import log_file
from .errors import UsageError, WriteError
from .objects import HEADER, Location, local_path, location
from .outputs import naming_write_errors, reason, writable_file, writable_folder
from .untrusted import harmless

if TYPE_CHECKING:
    import torch


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text, also to the log file if there is one. Control and bidi characters are replaced, see `harmless`."""
    try:
        log_file.copy(text)
        click.echo(harmless(text), err=err, nl=nl)
    except BrokenPipeError:  # the reader closed the pipe
        raise
    except OSError as error:
        raise WriteError(f"standard {'error' if err else 'output'} cannot be written", found=reason(error)) from None


AMP = ("none", "tf32", "bf16")


class LocalPlace(click.ParamType):
    """A file or folder of this machine. Fails for an address of object storage."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return local_path(value) if isinstance(value, str) else value


class CachePlace(click.ParamType):
    """The location of a cache: a local folder, or a URL of object storage."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        return location(value) if isinstance(value, str) else value


class Checkpoint(LocalPlace):
    """A checkpoint file, or the folder of a run for its best checkpoint."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from .weight_files import checkpoint_in

        return checkpoint_in(super().convert(value, param, ctx))


class OutCache(CachePlace):
    """The location of a cache to fill. A new folder is tested for writing before the work starts.

    An existing cache is not tested: a complete one may be on a read-only disk.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        place = super().convert(value, param, ctx)
        return writable_folder(place) if isinstance(place, Path) and not (place / HEADER).exists() else place


class OutFile(LocalPlace):
    """A file to write. Writing is tested before the work starts; see `writable_file`."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return writable_file(super().convert(value, param, ctx))


class OutFolder(LocalPlace):
    """A folder to write to, created if missing. Writing is tested before the work starts; see `writable_folder`."""

    name = "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return writable_folder(super().convert(value, param, ctx))


class Finite(click.ParamType):
    """A finite number greater than ``above``."""

    name = "float"

    def __init__(self, above: float = -math.inf) -> None:
        self.above = above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not self.above < found < math.inf:
            above = "" if self.above == -math.inf else f" above {self.above:g}"
            self.fail(f"{value} is not a finite number{above}", param, ctx)
        return found


FOLDER, CACHE, CHECKPOINT = LocalPlace(), CachePlace(), Checkpoint()
OUT_FILE, OUT_FOLDER, OUT_CACHE = OutFile(), OutFolder(), OutCache()


class RowOf(click.Choice[str]):
    """A key of a table. The choices are read when a command line is parsed, so tables can be extended before."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table, self.case_sensitive = table, True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.table)


class Commands(click.Group):
    """A group that lists commands in the order of definition, and suggests the nearest name for an unknown command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from .config import nearest

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*decorators: Decorator) -> Decorator:
    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


annotations_option = click.option(
    "--annotations", type=FOLDER, required=True, metavar="PATH", help="Dataset folder, or one annotation file."
)
annotation_set_option = click.option(
    "--annotation-set", metavar="NAME", help="Annotation set of the cache to use.  [the only one]"
)
vidor_option = click.option(
    "--vidor", type=FOLDER, metavar="DIR", help="VidOR folder, if not inside the dataset folder."
)
device_option = click.option(
    "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1 …  [cuda if there is one]"
)
encoder_names = options(
    click.option(
        "--backbone",
        metavar="NAME",
        help="Visual encoder, if it moved: hf:FOLDER, file.py:Class.  [its recorded name]",
    ),
    click.option(
        "--text-encoder",
        metavar="NAME",
        help="Text encoder, if it moved: hf:FOLDER, file.py:Class.  [its recorded name]",
    ),
)
"""Encoder options of commands that read the encoders' names from a head or a cache."""
tokenizer_option = click.option(
    "--tokenizer",
    metavar="DIR",
    help="Folder with tokenizer.json, or vocab.json and merges.txt.  [the folder of the text weights]",
)
weight_options = options(
    click.option(
        "--backbone-weights",
        metavar="PATH",
        help="A weights file, an index of shards, or 'random'; for several encoders, one each, separated by commas.  "
        "[local torch hub cache]",
    ),
    click.option(
        "--text-weights",
        metavar="PATH",
        help="A weights file or folder, or 'random'.  [local Hugging Face cache]",
    ),
)
encoder_options = options(
    weight_options,
    tokenizer_option,
    click.option("--weights-seed", type=int, default=0, show_default=True, help="Seed of random weights."),
)


def refuse_with(option: str, others: Mapping[str, object], because: str) -> None:
    """Raise click.UsageError, which names both options, if one of ``others`` is given together with ``option``.

    ``others``: values by option. ``because``: the reason.
    """
    for other in given(others):
        raise click.UsageError(f"{option} does not go with {other}: {because}. Leave one of the two out.")


def refuse_without(option: str, others: Mapping[str, object]) -> None:
    """Raise click.UsageError, which names both options, if one of ``others`` is given although ``option`` is not."""
    for other in given(others):
        raise click.UsageError(f"{other} belongs to {option}. Add {option}, or leave {other} out.")


def given(values: Mapping[str, object]) -> list[str]:
    """Names of the options that are given: their values are not None, False or ()."""
    return [name for name, value in values.items() if not (value is None or value is False or value == ())]


def start_log(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Callback of ``--log``: open the log file."""
    if path is not None and not ctx.resilient_parsing:
        with naming_write_errors(path, hint="name another file"):
            log_file.start(path)


log_option = click.option(
    "--log",
    type=OUT_FILE,
    metavar="FILE",
    expose_value=False,
    callback=start_log,
    help="Also append the output to this file, with the time of every line.",
)


def choose_device(name: str | None) -> torch.device:
    """The device with this name; None selects a GPU if there is one. Raises UsageError if the device is not usable."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).add(1).item()  # some devices create tensors, but cannot compute
    except Exception as error:  # its type depends on the device
        raise UsageError(
            f"device {name!r} cannot be used",
            expected=f"cpu{gpus(torch.cuda.device_count())}",
            found=str(error).partition("\n")[0].partition(". ")[0] if name.startswith("cuda") else None,
            hint="--device cpu",
        ) from None
    return device


def gpus(count: int) -> str:
    """The names of this machine's GPUs, as continuation of the text "cpu"."""
    return {0: " (no GPU is found)", 1: " or cuda"}.get(count, f", cuda, cuda:0 … cuda:{count - 1}")
