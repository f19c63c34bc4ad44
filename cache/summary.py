"""What a cache holds, in numbers: `stvg cache info`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .arrays import sums_of
from .index import Cache


def summarise(cache: Cache) -> dict[str, Any]:
    """Everything `stvg cache info` prints, as JSON. Sizes are of the features; records and checksums add a little."""
    arrays: dict[str, dict[str, Any]] = {}
    frames = views = sources = 0
    keys = {room: cache.store.keys(room) for room in ("videos", "text")}
    for key in keys["videos"] + keys["text"]:
        if key.startswith("videos/"):
            attributes = cache.store.attributes(key)
            sources += "source" in attributes
            frames, views = frames + len(attributes["frames"]), max(views, len(attributes["views"]))
        for name, facts in cache.store.arrays(key).items():
            if name.endswith(sums_of("")):  # statistics, no features
                continue
            level = arrays.setdefault(name, {"dtype": facts.dtype.name, "units": 0, "rows": 0, "bytes": 0})
            level["units"] += 1
            level["rows"] += facts.shape[0]
            level["bytes"] += facts.shape[0] * facts.row_bytes
    return {
        "path": str(cache.path),
        "fingerprint": cache.recipe.fingerprint,
        "store": cache.header.store,
        "videos": {
            "stored": len(keys["videos"]),
            "skipped": len(cache.skipped()),
            "annotated": len(set(cache.samples.video_ids)),
            "files_known": sources,
        },
        "frames": frames,
        "views": views,
        "sentences": {"all": len(cache.samples), "distinct": cache.samples.text_count},
        "splits": dict(sorted(Counter(cache.samples.splits).items())),
        "arrays": dict(sorted(arrays.items())),
        "bytes": sum(level["bytes"] for level in arrays.values()),
        "recipe": cache.recipe.to_json(),
        "admitted_by": cache.header.admitted_by,
        "versions": cache.header.versions,
    }


def summary_lines(found: dict[str, Any]) -> list[str]:
    """A summary as people read it."""
    videos, sentences = found["videos"], found["sentences"]
    facts = {
        "fingerprint": found["fingerprint"],
        "store": found["store"],
        "videos": f"{videos['stored']:,} of {videos['annotated']:,}, {videos['skipped']:,} skipped",
        "video files": f"known of {videos['files_known']:,}; a replaced one is found by stvg extract",
        "frames": f"{found['frames']:,}, in up to {found['views']} views",
        "sentences": f"{sentences['all']:,}, {sentences['distinct']:,} distinct",
        "splits": ", ".join(f"{split} {count:,}" for split, count in found["splits"].items()),
        "size": size(found["bytes"]),
    }
    lines = [found["path"], *(f"  {name:<18} {value}" for name, value in facts.items())]
    lines += ["", f"  {'array':<18} {'type':<9} {'units':>7} {'rows':>11} {'bytes a row':>11} {'size':>10}"]
    for name, level in found["arrays"].items():
        each = level["bytes"] // max(1, level["rows"])
        counts = f"{level['units']:>7,} {level['rows']:>11,} {each:>11,} {size(level['bytes']):>10}"
        lines.append(f"  {name:<18} {level['dtype']:<9} {counts}")
    for part in ("recipe", "admitted_by", "versions"):
        facts = found[part] or {"samples": "an older cache does not say"}
        lines += ["", f"  {part}", *(f"    {name:<18} {value}" for name, value in facts.items())]
    return lines


def size(count: float) -> str:
    """Bytes, readably: 1.23 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
