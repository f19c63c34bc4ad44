"""``stvg ablate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...heads.training.options import TrainRequest, run_options
from ...options import CACHE, FOLDER, OUT_FOLDER, say
from ...requested import names_of, option
from .request import PRESET, AblateRequest

if TYPE_CHECKING:
    from ...objects import Location


@click.command(short_help="Re-run the paper's ablations from one cache.")
@click.option("--cache", type=CACHE, required=True, metavar="DIR", help="The cache all cells share.")
@click.option(
    "--cache-at",
    "others",
    type=(int, CACHE),
    multiple=True,
    metavar="RESOLUTION DIR",
    help="The cache of another resolution, for table X.",
)
@click.option(
    "--table", "tables", multiple=True, help="III, IV, V, VI, VII, VIII, IX or X; may be repeated.  [all but X]"
)
@option(AblateRequest, "grid", type=FOLDER, metavar="FILE", help="A YAML file with rows of your own instead.")
@run_options(PRESET, ": what every cell starts from")
@option(AblateRequest, "seeds", type=click.IntRange(min=1), help="Runs of every row.")
@option(AblateRequest, "test_split", help="Split to score.")
@option(AblateRequest, "out", type=OUT_FOLDER, help="Cells and tables.")
@option(
    AblateRequest,
    "devices",
    metavar="NAMES",
    help="cpu,cpu or cuda:0,cuda:1 …: one cell at a time on each.  [the best one]",
)
@option(
    AblateRequest,
    "launcher",
    help="ray: a task for each cell on the cluster of RAY_ADDRESS, or one of this machine.",
)
def ablate(cache: Location, others: tuple[tuple[int, Location], ...], **given: Any) -> None:
    """Re-run the paper's ablations from one cache, or a grid of your own; finished cells never run again.

    Exits with 1 when a cell failed; the others are completed.

    \b
    Examples:
      stvg ablate --cache cache/vidstg --table III --seeds 3 --init weights/mdetr/head.safetensors
      stvg ablate --cache cache/vidstg --grid dropout.yaml --devices cuda:0,cuda:1
    """
    from ...heads.training.launched import require_alone

    require_alone("stvg ablate", "--devices and --launcher ray spread its cells")
    if len(dict(others)) < len(others):
        found = ", ".join(f"{size} {place}" for size, place in others)
        raise click.UsageError(f"--cache-at names a resolution twice: {found}. Name one cache for each.")
    own = {name: given.pop(name) for name in names_of(AblateRequest) if name in given}
    request = AblateRequest(caches={None: cache, **dict(others)}, asked=TrainRequest(**given), **own)
    request.chosen()  # errors in the request are raised before torch is imported
    from .run import ablate_requested

    done = ablate_requested(request)
    say(done.table())
    counts = f"{done.cells} cells, {done.finished} finished before, {done.failed} failed"
    say(f"{counts} → {request.out}/tables.md, tables.csv, tables.tex, plot.png")
    if done.failed:
        raise SystemExit(1)
