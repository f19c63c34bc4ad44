"""Names of the arrays in a video's unit, and the arrays that a recipe keeps.

    <level>          (F, h, w, C)   maps of the frames
    <level>_roi      (R, S², C)     RoI-aligned regions of the annotated boxes
    <level>_sums     (2, C)         float64: sum and sum of squares over the F·h·w cells of view 0

The names for further stored views begin with ``view1_``, ``view2_``, …
"""

from __future__ import annotations

from .schema import Recipe


def array_name(name: str, view: int) -> str:
    """Name of an array of maps or regions in a stored view; ``name`` is its name in view 0."""
    return name if view == 0 else f"view{view}_{name}"


def regions_of(level: str) -> str:
    return f"{level}_roi"


def sums_of(level: str) -> str:
    return f"{level}_sums"


def rows_of(name: str) -> str:
    """The name of a row in an array of features: ``frame`` or ``region``."""
    return "region" if name.endswith(regions_of("")) else "frame"


def arrays_of(recipe: Recipe) -> list[str]:
    """Names of the feature arrays that a recipe keeps per view, finest level first."""
    kept = recipe.kept
    return [n if kept[n] == "maps" else regions_of(n) for n in (level.name for level in recipe.levels)]
