"""Dataclasses from YAML presets and ``--set a.b=c`` overrides. The dataclass defines all settings and their defaults.

An unknown key raises UsageError with the nearest known name. A value of another type than the default raises
UsageError.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import UsageError

Config = TypeVar("Config")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or with all known names if none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"


@dataclass(frozen=True)
class Range:
    """Finite numbers from ``low`` to ``high``. ``low_open``, ``high_open``: exclude that bound."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        low = f"{'more than' if self.low_open else 'at least'} {self.low:g}"
        return low if self.high == math.inf else f"{low}, {'less than' if self.high_open else 'at most'} {self.high:g}"


AT_LEAST_0, AT_LEAST_1, POSITIVE = Range(0), Range(1), Range(0, low_open=True)
SHARE = Range(0, 1, high_open=True)


def setting(default: Any = MISSING, within: Container[Any] | None = None, source: str = "") -> Any:
    """A dataclass field with values in ``within``: a `Range`, or names. ``source``: the origin of the default."""
    return field(default=default, metadata={"within": within, "source": source})


def outside(settings: Any) -> Iterable[tuple[str, Any, Container[Any]]]:
    """Fields of a dataclass with a value that is not allowed: (name, value, allowed values)."""
    for each in fields(settings):
        within, value = each.metadata.get("within"), getattr(settings, each.name)
        if within is not None and value is not None and value not in within:
            yield each.name, value, within


def told(within: Container[Any]) -> str:
    """The allowed values as text."""
    return str(within) if isinstance(within, Range) else ", ".join(within)  # type: ignore[arg-type]


class Settings:
    """Base class of settings. Raises ValueError for a value that is not allowed."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for name, value, within in outside(self):
            raise ValueError(
                f"{name} is {value!r}, expected {'' if isinstance(within, Range) else 'one of '}{told(within)}"
            )


def build(kind: type[Config], values: Mapping[str, Any], where: str, kinds: Mapping[str, type] | None = None) -> Config:
    """Build a ``kind`` dataclass from nested ``values``. Missing values keep their defaults.

    ``where``: name of the source in errors, such as a file or a section of it. ``kinds``: dataclasses of fields with a
    type that depends on other values. Raises UsageError for unknown keys, wrong types, and values that the dataclass
    rejects.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where} must be a group of settings", found=repr(values))
    kinds = dict(kinds or {})
    hints = get_type_hints(kind) | kinds
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    given: dict[str, Any] = {name: chosen() for name, chosen in kinds.items() if name not in values}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where} has no setting {key!r}", hint=nearest(str(key), known))
        given[key] = _convert(hints[key], value, f"{where}.{key}")
    missing = [n for n, f in known.items() if n not in given and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise UsageError(f"{where} needs {', '.join(missing)}")
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return _convert(hint, value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} has the wrong type", expected="a list, such as [a, b]", found=repr(value))
        return tuple(_convert(get_args(hint)[0], part, where) for part in value)
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint in plain and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise UsageError(f"{where} has the wrong type", expected=plain[hint], found=repr(value))
    return value


def load_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. An empty file gives an empty group."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML", found=" ".join(str(error).split())) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold groups of settings", found=type(values).__name__)
    return values


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """``values`` with ``group.setting=value`` assignments applied. The value is parsed as YAML; groups are merged."""
    result = _copy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {assignment!r} cannot be read", expected="group.setting=value")
        *groups, key = path.split(".")
        level = result
        for group in groups:
            level = level.setdefault(group, {})
            if not isinstance(level, dict):
                raise UsageError(f"--set {assignment!r}: {group} is a setting, not a group")
        value = yaml.safe_load(text)
        both = isinstance(value, Mapping) and isinstance(level.get(key), dict)
        level[key] = merge(level[key], value) if both else value
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested update: values of ``over`` replace those of ``base``, groups are merged."""
    result = _copy(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, such as ``train.lr``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found
