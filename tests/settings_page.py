"""Writes docs/settings.md from the dataclasses of settings: ``python tests/settings_page.py``."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from stvg.config import load_yaml, told
from stvg.heads.losses import TubeLoss
from stvg.heads.model_config import HeadConfig
from stvg.heads.presets import presets
from stvg.heads.settings import TrainConfig
from stvg.heads.table import HEADS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
NAMES = {"fsm": "FSM", "tubedetr": "TubeDETR", "stcat": "STCAT"}
COLUMNS = ("setting", "default", "may be", "what it is", "the default is from")
TYPES = {bool: "true, false", str: "text", int: "a whole number", float: "a number"}
HEAD = """# Settings

Every setting of `stvg train-head` and `stvg ablate`, written from the code. `--set group.name=value` sets one, a preset or
a YAML file several. A name that does not exist, a value of another type or outside of its range is refused before anything
trains. Lists are written `[c3,c4]`, nothing at all is `null`.

```
stvg train-head --cache cache/vidstg --set train.lr=1e-4 --set model.fusion.gate=false
```

"This project" stands where neither the papers nor their code know the setting. What the defaults were measured to do is in
[benchmarks.md](benchmarks.md), the equations are in [science.md](science.md).
"""
YAML = """
## A preset of your own

A YAML file with the three groups, each with what differs from the defaults. `--preset small.yaml` takes it, and `--set`
goes on top:

```yaml
# small.yaml
model: {d: 128, heads: 4, ffn: 512, fusion: {gate: false}}
loss: {mrcl: 1.0}
train: {epochs: 30, lr_drop: 25, batch_size: 32, schedule: stepped}
```

`model.head` decides which settings `model` and `loss` have. A grid, which is a list of such differences with a label each,
is a YAML file, too: [ablations](training.md#ablations).

## Shipped presets

What each sets otherwise than the defaults of its head:
"""


def described(kind: type) -> dict[str, str]:
    """What stands below every field of a dataclass, those that it inherits included."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not is_dataclass(each):
            continue
        body = ast.parse(inspect.cleandoc(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def settings_of(kind: type, but: Iterable[Field[Any]] = ()) -> list[tuple[str, Field[Any], str, type]]:
    """Name, field, description and type of every setting, those of groups inside under dotted names.

    ``but``: fields of a base that say the same are left out.
    """
    hints, texts, same = get_type_hints(kind), described(kind), {f.name: f for f in but}
    found = []
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            found += [(f"{each.name}.{n}", f, text, hint) for n, f, text, hint in settings_of(hints[each.name])]
        elif each.name not in same or (each.default, each.metadata) != (
            same[each.name].default,
            same[each.name].metadata,
        ):
            found.append((each.name, each, texts.get(each.name, ""), hints[each.name]))
    return found


def table(group: str, kind: type, base: type | None = None) -> str:
    rows = []
    for name, each, text, hint in settings_of(kind, fields(base) if base else ()):
        if base and name == "head":
            continue
        within = each.metadata.get("within")
        allowed = TYPES.get(hint, "a name" if "str" in str(hint) and "tuple" not in str(hint) else "names")
        if within is not None:
            whole = ", whole" if hint is int else ""
            allowed = told(within) + whole if not isinstance(within, tuple) else told(within)
        default = "null" if each.default is None else f"{each.default}"
        default = default.lower() if isinstance(each.default, bool) else default
        assert each.default is not MISSING
        rows.append([f"`{group}.{name}`", default, allowed, sentence(text), each.metadata.get("source", "")])
    return lines_of(COLUMNS, rows)


def lines_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, unpadded."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])


def sentence(text: str) -> str:
    return re.sub(r"``([^`]*)``", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def preset_table() -> str:
    rows = []
    for name in presets():
        with resources.as_file(resources.files(presets.__module__).joinpath(f"{name}.yaml")) as path:
            values = load_yaml(path)
        pairs = [(f"{group}.{key}", value) for group, given in values.items() for key, value in given.items()]
        said = [f"`{key}={str(value).lower() if isinstance(value, bool) else value}`" for key, value in pairs]
        rows.append([f"`{name}`", ", ".join(said) or "nothing"])
    return lines_of(["preset", "sets"], rows)


def page() -> str:
    parts = [
        HEAD,
        "## train\n",
        table("train", TrainConfig),
        "\n## model\n\nEvery head has\n",
        table("model", HeadConfig),
    ]
    for name, row in HEADS.items():
        if len(settings_of(row.config, fields(HeadConfig))):
            parts += [
                f"\n{NAMES[name]} has of its own, or with another default\n",
                table("model", row.config, HeadConfig),
            ]
    parts += ["\n## loss\n\nWeights of the terms; 0 leaves a term out. Every head has\n", table("loss", TubeLoss)]
    for name, row in HEADS.items():
        if row.loss is not TubeLoss:
            parts += [f"\n{NAMES[name]} has of its own, or with another default\n", table("loss", row.loss, TubeLoss)]
    return "\n".join([*parts, YAML, preset_table()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
