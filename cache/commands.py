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
    """Look into a cache, check it, and bring it into another form."""


@cache.command("info")
@click.argument("path", type=CACHE)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def cache_info(path: Location, as_json: bool) -> None:
    """What a cache holds and exactly how it was made."""
    from .index import Cache
    from .upkeep.summary import summarise, summary_lines

    found = summarise(Cache.open(path))
    say(json.dumps(found, indent=1) if as_json else "\n".join(summary_lines(found)))


@cache.command("verify", short_help="Compare every checksum, and name all that is wrong.")
@click.argument("path", type=CACHE)
@click.option(
    "--repair", is_flag=True, help="Remove what is damaged or left over, so that stvg extract writes it again."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Units read at once.")
def cache_verify(path: Location, repair: bool, jobs: int) -> None:
    """Read everything, compare every checksum, and name all that is missing, damaged or foreign.

    Exits with 1 if anything is wrong, repaired or not: after a repair, stvg extract has to fill the gaps. Files that are
    not the cache's own are named and left alone.
    """
    from .upkeep import verify as check

    with Progress("verify", "units", doing="listing units") as bar:
        findings = check.verify(path, jobs, bar.at)
    for problem in findings.problems:
        say(problem.message, err=True)
    say(f"{counted(findings.units, 'unit')} read, {counted(len(findings.problems), 'problem')}")
    if repair:
        removed = check.repair(findings)
        say(f"removed {len(removed):,}; the next stvg extract writes again what belongs there")
        for place in removed:
            say(f"  {place}")
    elif findings.removable:
        pieces = counted(len(findings.removable), "file or folder", "files and folders")
        say(f"--repair would remove {pieces}, for stvg extract to write again")
    if findings.problems:
        raise SystemExit(1)


@cache.command("convert", short_help="Copy a cache into another store or place.")
@click.argument("source", type=CACHE)
@click.argument("target", type=OUT_CACHE)
@click.option("--store", type=RowOf(STORES), required=True, help="How TARGET keeps its units.")
def cache_convert(source: Location, target: Location, store: str) -> None:
    """Copy a cache into another store or to another place: the same features, byte for byte.

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
@click.option("--level", metavar="NAME", help="Whose maps are written.  [the last]")
@click.option("--format", "form", type=click.Choice(["npz", "npy"]), default="npz", show_default=True)
def cache_export(source: Location, out: Path, annotation_set: str | None, level: str | None, form: str) -> None:
    """Write the maps of one level: OUT/VIDEO.npz with features, source frames and timestamps_ms, or OUT/VIDEO.npy.

    \b
    Example: stvg cache export cache/vidstg features
    """
    from .index import Cache
    from .upkeep.export import export

    with Progress("export", "videos") as bar, naming_write_errors(out):
        written = export(Cache.open(source, annotation_set), out, level, form, bar.at)
    say(f"export: {counted(written, 'video')} → {out}")


@cache.command("remove-annotations", short_help="Take an annotation set out of a cache.")
@click.argument("path", type=CACHE)
@click.argument("name")
def cache_remove_annotations(path: Location, name: str) -> None:
    """Take the annotation set NAME out of a cache. Features stay: another set may need them, and so may this one again."""
    from .index import read_header
    from .set_files import remove_set

    read_header(path)
    with naming_write_errors(path):
        remove_set(path, name)
    say(f"removed the annotation set {name} of {path}; its features stay")


@cache.command("merge", short_help="Merge caches of one recipe into one.")
@click.argument("out", type=OUT_CACHE)
@click.argument("shards", type=CACHE, nargs=-1, required=True)
def cache_merge(out: Location, shards: tuple[Location, ...]) -> None:
    """Make one cache of SHARDS of the same recipe, whatever their annotations; OUT may be there already.

    On one file system units are linked, not copied. Annotation sets of one name are united; where they contradict, nothing
    is written.

    \b
    Example: stvg cache merge cache/vidstg shards/0 shards/1 shards/2
    """
    from .upkeep.merge import merge

    with Progress("merge", "units", doing="comparing shards") as bar, naming_write_errors(out):
        written = merge(out, shards, bar.at)
    say(f"merge: {counted(written, 'unit')} of {counted(len(shards), 'shard')} → {out}")
