"""What the arrays of a video's unit are called, and which a recipe keeps.

    <level>          (F, h, w, C)   maps of the frames
    <level>_roi      (R, S², C)     RoI-aligned regions of the annotated boxes
    <level>_sums     (2, C)         float64: sum and sum of squares of view 0's cells, of which there are F·h·w

Arrays of a further stored view begin with ``view1_``, ``view2_``, …
"""

from __future__ import annotations

from .schema import Recipe


def array_name(name: str, view: int) -> str:
    """What the maps or regions called ``name`` are called when seen through a stored view."""
    return name if view == 0 else f"view{view}_{name}"


def regions_of(level: str) -> str:
    return f"{level}_roi"


def sums_of(level: str) -> str:
    return f"{level}_sums"


def rows_of(name: str) -> str:
    """What a row of an array of features is: a ``frame`` or a ``region``."""
    return "region" if name.endswith(regions_of("")) else "frame"


def arrays_of(recipe: Recipe) -> list[str]:
    """The arrays of features of a view that a recipe keeps, finest level first."""
    kept = recipe.kept
    return [n if kept[n] == "maps" else regions_of(n) for n in (level.name for level in recipe.levels)]
