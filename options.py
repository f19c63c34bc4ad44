"""Options that several commands share, and how a group of commands behaves."""

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
    """Print for people, and into the log file if there is one. Control characters in texts of others are replaced."""
    try:
        log_file.copy(text)
        click.echo(harmless(text), err=err, nl=nl)
    except BrokenPipeError:  # nobody reads it any more
        raise
    except OSError as error:
        raise WriteError(f"standard {'error' if err else 'output'} cannot be written", found=reason(error)) from None


AMP = ("none", "tf32", "bf16")


class LocalPlace(click.ParamType):
    """A file or folder of this machine. An address of object storage is refused, not taken for a name."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return local_path(value) if isinstance(value, str) else value


class CachePlace(click.ParamType):
    """Where a cache lies: a local folder, or a URL of object storage."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        return location(value) if isinstance(value, str) else value


class Checkpoint(LocalPlace):
    """A checkpoint, or the folder of a run, which stands for its best one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from .weight_files import checkpoint_in

        return checkpoint_in(super().convert(value, param, ctx))


class OutCache(CachePlace):
    """Where a cache is to be filled. A folder is looked at before the work, unless it holds a cache: a finished one may lie
    on a read-only disk."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        place = super().convert(value, param, ctx)
        return writable_folder(place) if isinstance(place, Path) and not (place / HEADER).exists() else place


class OutFile(LocalPlace):
    """A file to write. Whether it can be written is known before the work; see `writable_file`."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return writable_file(super().convert(value, param, ctx))


class OutFolder(LocalPlace):
    """A folder to write to, made if missing; see `writable_folder`."""

    name = "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return writable_folder(super().convert(value, param, ctx))


class Finite(click.ParamType):
    """A number that is neither infinite nor NaN, and above ``above``."""

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
            self.fail(f"{value} is no finite number{above}", param, ctx)
        return found


FOLDER, CACHE, CHECKPOINT = LocalPlace(), CachePlace(), Checkpoint()
OUT_FILE, OUT_FOLDER, OUT_CACHE = OutFile(), OutFolder(), OutCache()


class RowOf(click.Choice[str]):
    """The name of a row of a table, as the table is when a command line is read."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table, self.case_sensitive = table, True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.table)


class Commands(click.Group):
    """Lists commands in working order, and prints our errors without a traceback."""

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
    "--annotation-set", metavar="NAME", help="Which of the cache's annotation sets to read.  [the only one]"
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
        help="Where the encoder of pictures lies: hf:FOLDER, file.py:Class.  [its recorded name]",
    ),
    click.option(
        "--text-encoder",
        metavar="NAME",
        help="Where the encoder of sentences lies: hf:FOLDER, file.py:Class.  [its recorded name]",
    ),
)
"""For commands whose head or cache knows its encoders already."""
tokenizer_option = click.option(
    "--tokenizer",
    metavar="DIR",
    help="Folder with tokenizer.json, or vocab.json and merges.txt.  [that of the text weights]",
)
weight_options = options(
    click.option(
        "--backbone-weights",
        metavar="PATH",
        help="A file of weights, an index of shards, or 'random'; of several encoders, one for each, divided by commas.  "
        "[local torch hub cache]",
    ),
    click.option(
        "--text-weights",
        metavar="PATH",
        help="A folder or file of weights, or 'random'.  [local Hugging Face cache]",
    ),
)
encoder_options = options(
    weight_options,
    tokenizer_option,
    click.option("--weights-seed", type=int, default=0, show_default=True, help="Seed of random weights."),
)


def start_log(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Open the file of ``--log``."""
    if path is not None and not ctx.resilient_parsing:
        with naming_write_errors(path, hint="name another file"):
            log_file.start(path)


log_option = click.option(
    "--log",
    type=OUT_FILE,
    metavar="FILE",
    expose_value=False,
    callback=start_log,
    help="Append all that is said to this file, too, every line with its time.",
)


def choose_device(name: str | None) -> torch.device:
    """The device of that name; None: a GPU if there is one. Raises UsageError where it cannot compute."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).add(1).item()  # some devices give tensors, but no numbers
    except Exception as error:  # of another kind for every kind of device
        raise UsageError(
            f"device {name!r} cannot be used",
            expected=f"cpu{gpus(torch.cuda.device_count())}",
            found=str(error).partition("\n")[0].partition(". ")[0] if name.startswith("cuda") else None,
            hint="--device cpu",
        ) from None
    return device


def gpus(count: int) -> str:
    """How the GPUs of this machine are called, after the processor."""
    return {0: " (no GPU is found)", 1: " or cuda"}.get(count, f", cuda, cuda:0 … cuda:{count - 1}")
