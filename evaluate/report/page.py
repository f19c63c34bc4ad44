"""ReportContent and pictures → one HTML file that needs no other: data as JSON, drawn by its own script.

Sentences and names are anyone's text. In the page's own markup they are escaped; in its data they are JSON without a
character that HTML reads, and the script only ever sets text. A content security policy lets nothing run or load but
the script and the style that are written here, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ... import __version__
from ...atomic import write_atomic
from ...errors import VideoError
from ..metrics import METRICS
from ..paper_figures import published_beside
from ..tables import describe, spread
from . import breakdown, gallery
from .findings import ReportContent
from .frames import Taken, choose, pictured_frames, take_pictures
from .training import charts_of

HERE = Path(__file__).parent
CONNECT = "connect-src 'self'; "
SCRIPTS = ("elements.js", "theme.js", "draw.js", "live.js", "gallery.js", "player.js", "page.js")
PICTURES = 36
"""Samples with frames, unless told otherwise."""


@dataclass(frozen=True)
class Written:
    """What became of a report."""

    path: Path
    bytes: int
    pictured: int
    """Samples with frames."""
    faults: dict[str, VideoError]
    """Videos that were asked for and could not be read; the page names them, without the folders of this machine."""


def write_report(
    out: Path,
    findings: ReportContent,
    videos: Path | None = None,
    pictures: int = PICTURES,
    tick: Callable[[], None] | None = None,
) -> Written:
    """Write the page. Equal findings and videos give equal bytes.

    ``videos``: the folder of the videos; without it there are tubes and no frames. ``pictures``: how many samples get
    frames, by turns the best, the median, the worst, and the most changed. A video that cannot be read is a fault of
    the report that the page states. Raises UsageError when ``videos`` is not a folder of videos.
    """
    rows = gallery.shown(findings)
    chosen = choose([score for _, _, score in rows], pictures, [other.comparison for other in findings.against])
    taken = Taken()
    if videos is not None and chosen:
        known = {sample.sample_id: (sample, tube) for sample, tube, _ in rows}
        picked = [(s, gallery.clip_frames(findings, s), (t.start, t.end)) for s, t in map(known.__getitem__, chosen)]
        wanted = [(s, pictured_frames(clip, s.moment, span)) for s, clip, span in picked]
        taken = take_pictures(wanted, videos, findings.dataset, tick)
        chosen = [s.sample_id for s, _ in wanted if s.video.video_id in taken.pictures]
    page = render(findings, rows, chosen, taken)
    # A name of a file or a sentence may hold half a character, which no encoding has: it becomes a question mark.
    content = page.encode("utf-8", "replace")
    write_atomic(out, content)
    return Written(out, len(content), len(chosen) if taken.pictures else 0, taken.faults)


def render(
    findings: ReportContent,
    rows: gallery.Shown,
    chosen: Sequence[int | str],
    taken: Taken,
    live: bool = False,
) -> str:
    """The page as text. ``live``: it asks its server for pictures, see `live`."""
    scores = findings.scores
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    index = gallery.index(findings, rows, chosen, taken.clocks, live)
    place = {video[0]: i for i, video in enumerate(index["videos"])}
    beside = published_beside(scores, findings.dataset, findings.split)
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template("page.html")
    return template.render(
        findings=findings,
        scores=scores,
        style=style,
        script=script,
        policy=policy(style, script, live),
        live=live,
        headline=breakdown.headline(scores),
        groups=breakdown.by_group(scores, beside, findings.against),
        metrics=METRICS,
        intervals=scores.intervals(),
        spread=spread,
        published=bool(beside.rows),
        footnote=beside.note,
        summary=describe(scores, findings.dataset, findings.split),
        outcomes=_outcomes(findings),
        histograms={
            "tIoU": breakdown.histogram([round(s.tIoU, breakdown.PLACES) for s in scores.samples]),
            "vIoU": breakdown.histogram([round(s.vIoU, breakdown.PLACES) for s in scores.samples]),
        },
        breakdowns=breakdown.breakdowns(scores, findings.samples),
        charts=charts_of(findings.training),
        faults=taken.faults,
        pictured=len(chosen) if taken.pictures else 0,
        total=len(rows),
        data={
            "index": json_block(index),
            **{f"details-{i}": json_block(block) for i, block in enumerate(gallery.details(findings, rows, chosen))},
            **{f"pictures-{place[video]}": json_block(_encoded(frames)) for video, frames in taken.pictures.items()},
        },
        version=__version__,
    )


def _outcomes(findings: ReportContent) -> list[dict[str, Any]]:
    counts = [0] * len(breakdown.OUTCOMES)
    for score in findings.scores.samples:
        counts[breakdown.outcome(score)] += 1
    named = zip(breakdown.OUTCOMES, counts, breakdown.percentages(counts), strict=True)
    return [{"name": name, "rule": rule, "count": n, "percent": percent} for (name, rule), n, percent in named]


def _encoded(pictures: dict[int, bytes]) -> dict[int, str]:
    return {frame: base64.b64encode(picture).decode() for frame, picture in pictures.items()}


def json_block(value: Any) -> str:
    """JSON that can stand inside a script element: no character of it means anything to HTML, and all are ASCII."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def policy(style: str, script: str, live: bool) -> str:
    """The content security policy: this style, this script, pictures in the page or of its server, and nothing else."""

    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; img-src data:; "
        f"{CONNECT if live else ''}base-uri 'none'; form-action 'none'"
    )
