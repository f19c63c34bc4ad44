"""Requests: the parameters of a command, or of a function of the library.

A request is a frozen dataclass with one field per parameter. Its fields define the defaults and choices. The options of
the command line are generated from the fields, see `option`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

import click

from .config import Range, nearest, outside, setting, told
from .errors import UsageError
from .options import Decorator, RowOf

PROTOCOLS = ("tubedetr", "dense", "hcstvg_official")
"""Evaluation protocols; see `evaluate.metrics`."""
PROTOCOL_HELP = "Evaluation protocol: metrics on sampled frames, as in published results, or on every frame."
MODES = ("cached", "text", "last-stage", "end-to-end")
"""Training modes: the parts of the encoders that are trained with the head; see `TrainConfig.mode`."""


def one_of(known: Collection[str], default: Any = MISSING) -> Any:
    """A field with a value among ``known``: the keys of a table, or a list of names."""
    return setting(default, known)


class Request:
    """Base class of requests. Raises UsageError for a value that is not among its field's choices, for several texts
    where a field takes one, and for one text where a field takes several."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in ("str", "str | None") and not isinstance(value, str | None):
                raise UsageError(f"{each.name} is {value!r}", expected=f'one text, such as {each.name}="…"')
            if str(each.type).startswith("Sequence[str]") and isinstance(value, str):
                raise UsageError(f"{each.name} is {value!r}", expected=f"a list of texts: {each.name}=[{value!r}]")
        for name, value, known in outside(self):
            if isinstance(known, Range):
                raise UsageError(f"{name} is {value!r}", expected=told(known))
            assert isinstance(known, Collection)
            what, hint = name.replace("_", " "), nearest(str(value), known)
            raise UsageError(f"there is no {what} {value!r}", expected=told(known), hint=hint)


@dataclass(frozen=True, kw_only=True)
class EncoderPlaces(Request):
    """Where the encoders of a head or a cache are now. None: where their recorded names say."""

    backbone: str | None = None
    backbone_weights: str | None = None
    text_encoder: str | None = None
    text_weights: str | None = None
    tokenizer: str | None = None
    weights_seed: int = 0

    @property
    def encoders(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {name: getattr(self, name) for name in ENCODERS}


def names_of(request: type[Request], but: str = "") -> list[str]:
    """Names of a request's fields, without the field ``but``."""
    return [each.name for each in fields(request) if each.name != but]


def require_known(given: Iterable[str], known: Collection[str], function: str) -> None:
    """Raise UsageError, with the nearest name, for an option that ``function`` does not have."""
    for name in given:
        if name not in known:
            raise UsageError(f"{function} has no option {name!r}", hint=nearest(name, known))


def option(request: type[Request], name: str, *declarations: str, **attributes: Any) -> Decorator:
    """The click option of a request's field, with the field's default and choices.

    ``declarations``: names for `click.option`.  [--name] ``attributes``: its other arguments.
    """
    found = next(each for each in fields(request) if each.name == name)
    known = found.metadata.get("within")
    if isinstance(known, Collection) and "type" not in attributes:
        attributes["type"] = RowOf(known) if isinstance(known, Mapping) else click.Choice(list(known))
    if found.default is MISSING:
        attributes.setdefault("required", found.default_factory is MISSING)
    elif found.default is False:
        attributes["is_flag"] = True
    elif found.default is not None:
        attributes = {"default": found.default, "show_default": True, **attributes}
    return click.option(*(declarations or (f"--{name.replace('_', '-')}", name)), **attributes)


ENCODERS = names_of(EncoderPlaces)
