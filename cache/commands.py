"""``stvg cache``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import Progress
from ..options import CACHE, OUT_CACHE, OUT_FOLDER, Commands, RowOf, annotation_set_option, say
from ..outputs import naming_write_errors
from ..wording import counted
from .stores.kinds import STORES

if TYPE_CHECKING:
    from ..objects import Location


@click.group(cls=Commands, short_help="Inspect, verify, convert and merge caches.")
def cache() -> None:
    """Inspect, verify, convert, export and merge caches."""


@cache.command("info", short_help="Print the contents and the recipe of a cache.")
@click.argument("path", type=CACHE)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def cache_info(path: Location, as_json: bool) -> None:
    """Print the contents of a cache, and the recipe of its features."""
    from .index import Cache
    from .upkeep.summary import summarise, summary_lines

    found = summarise(Cache.open(path))
    say(json.dumps(found, indent=1) if as_json else "\n".join(summary_lines(found)))


@cache.command("verify", short_help="Compare every checksum, and report all faults.")
@click.argument("path", type=CACHE)
@click.option(
    "--repair", is_flag=True, help="Remove damaged parts and leftovers. The next stvg extract writes them again."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Units read concurrently.")
def cache_verify(path: Location, repair: bool, jobs: int) -> None:
    """Read the whole cache, compare every checksum, and report missing, damaged and foreign parts.

    The exit status is 1 if there are faults, also after a repair: run stvg extract to write the removed parts again.
    Foreign files are reported and never removed.
    """
    from .upkeep import verify as check

    with Progress("verify", "units", doing="listing units") as bar:
        findings = check.verify(path, jobs, bar.at)
    for problem in findings.problems:
        say(problem.message, err=True)
    say(f"{counted(findings.units, 'unit')} read, {counted(len(findings.problems), 'problem')}")
    if repair:
        removed = check.repair(findings)
        say(f"removed {len(removed):,}; the next stvg extract writes the missing parts again")
        for place in removed:
            say(f"  {place}")
    elif findings.removable:
        pieces = counted(len(findings.removable), "file or folder", "files and folders")
        say(f"--repair would remove {pieces}; stvg extract writes them again")
    if findings.problems:
        raise SystemExit(1)


@cache.command("convert", short_help="Copy a cache to another store or location.")
@click.argument("source", type=CACHE)
@click.argument("target", type=OUT_CACHE)
@click.option("--store", type=RowOf(STORES), required=True, help="File format of the units in TARGET.")
def cache_convert(source: Location, target: Location, store: str) -> None:
    """Copy a cache to another store or location. The bytes of all features stay identical.

    \b
    Example: stvg cache convert cache/vidstg s3://bucket/vidstg --store zarr
    """
    from .upkeep.convert import convert

    with Progress("convert", "units") as bar, naming_write_errors(target):
        written = convert(source, target, store, bar.at)
    say(f"convert: {counted(written, 'unit')} written → {target}")


@cache.command("export", short_help="Write features as NumPy files.")
@click.argument("source", type=CACHE)
@click.argument("out", type=OUT_FOLDER)
@annotation_set_option
@click.option("--level", metavar="NAME", help="Level of the maps to write.  [the last]")
@click.option("--format", "form", type=click.Choice(["npz", "npy"]), default="npz", show_default=True)
def cache_export(source: Location, out: Path, annotation_set: str | None, level: str | None, form: str) -> None:
    """Write the maps of one level as NumPy files.

    OUT/VIDEO.npz holds features, source frames and timestamps_ms. With --format npy: OUT/VIDEO.npy and
    OUT/VIDEO.frames.npy.

    \b
    Example: stvg cache export cache/vidstg features
    """
    from .index import Cache
    from .upkeep.export import export

    with Progress("export", "videos") as bar, naming_write_errors(out):
        written = export(Cache.open(source, annotation_set), out, level, form, bar.at)
    say(f"export: {counted(written, 'video')} → {out}")


@cache.command("remove-annotations", short_help="Remove an annotation set from a cache.")
@click.argument("path", type=CACHE)
@click.argument("name")
def cache_remove_annotations(path: Location, name: str) -> None:
    """Remove the annotation set NAME from a cache. All features stay."""
    from .index import read_header
    from .set_files import remove_set

    read_header(path)
    with naming_write_errors(path):
        remove_set(path, name)
    say(f"removed annotation set {name} from {path}; all features stay")


@cache.command("merge", short_help="Merge caches of one recipe into one.")
@click.argument("out", type=OUT_CACHE)
@click.argument("shards", type=CACHE, nargs=-1, required=True)
def cache_merge(out: Location, shards: tuple[Location, ...]) -> None:
    """Merge SHARDS of one recipe into the cache OUT, which may exist. Their annotations may differ.

    Within a file system, units are hard-linked instead of copied. Annotation sets of one name are united. If two of
    them contradict each other, nothing is written.

    \b
    Example: stvg cache merge cache/vidstg shards/0 shards/1 shards/2
    """
    from .upkeep.merge import merge

    with Progress("merge", "units", doing="comparing shards") as bar, naming_write_errors(out):
        written = merge(out, shards, bar.at)
    say(f"merge: {counted(written, 'unit')} of {counted(len(shards), 'shard')} → {out}")
