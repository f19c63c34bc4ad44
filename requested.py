"""What a command, or a function of the library, can be asked for.

A request is a frozen dataclass with a field for everything that can be said. Defaults and choices stand in its fields and
nowhere else; the options of the command line are made of them, see `option`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar

import click

from .config import nearest, outside, setting, told
from .errors import UsageError
from .options import Decorator, RowOf

PROTOCOLS = ("tubedetr", "dense", "hcstvg_official")
"""How the field's metrics are counted; see `evaluate.metrics`."""
PROTOCOL_HELP = "How the field's metrics are counted: on sampled frames as published numbers are, or on every frame."
MODES = ("cached", "text", "last-stage", "end-to-end")
"""What trains besides the head; see `TrainConfig.mode`."""


def one_of(known: Collection[str], default: Any = MISSING) -> Any:
    """A field whose value is a row of a table or a name of a list; its first default is ``default``."""
    return setting(default, known)


class Request:
    """The base of requests. Raises UsageError for a value that is none of its field's choices."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for name, value, known in outside(self):
            assert isinstance(known, Collection)
            what, hint = name.replace("_", " "), nearest(str(value), known)
            raise UsageError(f"there is no {what} {value!r}", expected=told(known), hint=hint)


def names_of(request: type[Request], but: str = "") -> list[str]:
    """The names of a request's fields, ``but`` one."""
    return [each.name for each in fields(request) if each.name != but]


def require_known(given: Iterable[str], known: Collection[str], function: str) -> None:
    """UsageError for an option that ``function`` has none of, with the nearest name."""
    for name in given:
        if name not in known:
            raise UsageError(f"{function} has no option {name!r}", hint=nearest(name, known))


def option(request: type[Request], name: str, *declarations: str, **attributes: Any) -> Decorator:
    """A command's option for a field of its request: with the field's default and its choices.

    ``declarations``: as `click.option` takes them, ``--name`` where there are none. ``attributes``: its other arguments.
    """
    found = next(each for each in fields(request) if each.name == name)
    known = found.metadata.get("within")
    if known is not None and "type" not in attributes:
        attributes["type"] = RowOf(known) if isinstance(known, Mapping) else click.Choice(list(known))
    if found.default is MISSING:
        attributes.setdefault("required", found.default_factory is MISSING)
    elif found.default is False:
        attributes["is_flag"] = True
    elif found.default is not None:
        attributes = {"default": found.default, "show_default": True, **attributes}
    return click.option(*(declarations or (f"--{name.replace('_', '-')}", name)), **attributes)
