"""Summary of a cache's contents for `stvg cache info`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ...wording import counted
from ..arrays import sums_of
from ..index import Cache
from ..set_files import read_set, set_names
from ..video_unit import MORE, REGIONS, ROOM
from .coverage import Coverage

NAMED = 5
"""Videos that a line lists by name; it counts the rest."""
NO_FEATURES = ("hashes", "offsets", REGIONS)
"""Arrays that index the rows of other arrays."""


def summarise(cache: Cache) -> dict[str, Any]:
    """Everything `stvg cache info` prints, as JSON. Sizes count the features, without records and checksums."""
    arrays: dict[str, dict[str, Any]] = {}
    frames = views = sentences = 0
    keys = {room: cache.store.keys(room) for room in (ROOM, MORE, "text")}
    for key in keys[ROOM] + keys[MORE] + keys["text"]:
        if not key.startswith("text/"):
            attributes = cache.store.attributes(key)
            frames, views = frames + len(attributes["frames"]), max(views, len(attributes["views"]))
        for name, facts in cache.store.arrays(key).items():
            sentences += facts.shape[0] if name == "hashes" else 0
            if name in NO_FEATURES or name.endswith(sums_of("")):
                continue
            level = arrays.setdefault(name, {"dtype": facts.dtype.name, "units": 0, "rows": 0, "bytes": 0})
            level["units"] += 1
            level["rows"] += facts.shape[0]
            level["bytes"] += facts.shape[0] * facts.row_bytes
    return {
        "path": str(cache.path),
        "fingerprint": cache.recipe.fingerprint,
        "store": cache.header.store,
        "videos": {"stored": len(cache.complete()), "added_to": len(keys[MORE]), "skipped": len(cache.skipped())},
        "frames": frames,
        "views": views,
        "sentences": sentences,
        "annotation_sets": [summary_of(cache.seen_through(read_set(cache.path, n))) for n in set_names(cache.path)],
        "arrays": dict(sorted(arrays.items())),
        "bytes": sum(level["bytes"] for level in arrays.values()),
        "recipe": cache.recipe.to_json(),
        "versions": cache.header.versions,
    }


def summary_of(cache: Cache) -> dict[str, Any]:
    """The selected annotation set of a cache, and its coverage."""
    found, coverage = cache.annotations, Coverage.of(cache)
    return {
        **found.to_json(),
        "dataset": found.dataset,
        "splits": {split: asdict(facts) for split, facts in found.splits.items()},
        "coverage": {**asdict(coverage), "complete": coverage.complete},
    }


def summary_lines(found: dict[str, Any]) -> list[str]:
    """The lines that `stvg cache info` prints for a summary."""
    videos = found["videos"]
    facts = {
        "fingerprint": found["fingerprint"],
        "store": found["store"],
        "videos": f"{videos['stored']:,}, {videos['skipped']:,} skipped; {counted(videos['added_to'], 'added unit')}",
        "frames": f"{found['frames']:,}, in up to {found['views']} views",
        "sentences": f"{found['sentences']:,}",
        "size": "no features are kept, and none are needed"
        if found["recipe"]["keep"] == "none"
        else size(found["bytes"]),
    }
    lines = [found["path"], *(f"  {name:<18} {value}" for name, value in facts.items())]
    for one in found["annotation_sets"]:
        lines += ["", *set_lines(one)]
    lines += ["", f"  {'array':<18} {'type':<9} {'units':>7} {'rows':>11} {'bytes/row':>11} {'size':>10}"]
    for name, level in found["arrays"].items():
        each = level["bytes"] // max(1, level["rows"])
        counts = f"{level['units']:>7,} {level['rows']:>11,} {each:>11,} {size(level['bytes']):>10}"
        lines.append(f"  {name:<18} {level['dtype']:<9} {counts}")
    for part in ("recipe", "versions"):
        rows = dict(flattened(found[part]))
        lines += ["", f"  {part}", *(f"    {name:<{max(18, *map(len, rows))}} {value}" for name, value in rows.items())]
    return lines


def flattened(fields: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Fields with dotted names, such as ``visual.sha256`` for a field of an encoder; one entry per level."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", of) for inner, of in flattened(value))
        elif name == "levels":
            yield from (
                (f"levels.{level['name']}", f"{level['channels']} channels, stride {level['stride']}")
                for level in value
            )
        elif isinstance(value, list | tuple):
            yield name, ", ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in value)
        else:
            yield name, value


def set_lines(found: dict[str, Any]) -> list[str]:
    """The lines about an annotation set: name, splits and coverage."""
    lines, there = (
        [f"  annotation set {found['name']} of {found['dataset']}, {found['sha256'][:16]}"],
        found["coverage"],
    )
    for split, facts in found["splits"].items():
        rule = "" if facts["max_frames"] is None else f"; --max-frames {facts['max_frames']}"
        rule += f" --on-bad-record {facts['on_bad_record']}" if rule and facts["on_bad_record"] != "raise" else ""
        counts = f"{counted(facts['samples'], 'sample')} of {counted(facts['videos'], 'video')}"
        lines.append(f"    {split:<16} {counts}{rule}")
    counts = ", ".join(f"{there[name]:,} {name}" for name in ("complete", "partly", "missing"))
    skipped = f" ({there['skipped']:,} of them skipped)" if there["skipped"] else ""
    texts = f"{there['sentences'] - there['sentences_missing']:,} of {there['sentences']:,} distinct ones stored"
    lines += [f"    {'videos':<16} {counts} of {there['videos']:,}{skipped}", f"    {'sentences':<16} {texts}"]
    if others := there["other_file"]:
        lines.append(
            f"    {'not read':<16} features of another file or size than in these annotations: "
            f"{', '.join(others[:NAMED])}" + (f" and {len(others) - NAMED:,} more" if len(others) > NAMED else "")
        )
    return lines


def size(count: float) -> str:
    """A number of bytes with a decimal unit: 1.23 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
