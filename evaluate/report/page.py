"""ReportContent and pictures → one self-contained HTML file: data as JSON, drawn by the page's own script.

Sentences and names are untrusted text. In the page's markup they are escaped. In its data they are JSON without any
character special to HTML, and the script only inserts them as text. A content security policy allows only the page's
own script and style, identified by their hashes.
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
"""Default number of samples with frames."""


@dataclass(frozen=True)
class Written:
    """Summary of a written report."""

    path: Path
    bytes: int
    pictured: int
    """Number of samples with frames."""
    faults: dict[str, VideoError]
    """Requested videos that could not be read. The page names them without the folders of this machine."""


def write_report(
    out: Path,
    findings: ReportContent,
    videos: Path | None = None,
    pictures: int = PICTURES,
    tick: Callable[[], None] | None = None,
) -> Written:
    """Write the page. Equal findings and videos give equal bytes.

    ``videos``: the folder of the videos; without it, tubes are drawn without frames. ``pictures``: number of samples
    with frames, chosen in turn from the best, the median, the worst and the most changed. A video that cannot be read
    is listed on the page. Raises UsageError if ``videos`` is not a folder of videos.
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
    # A file name or a sentence may contain a lone surrogate, which UTF-8 cannot encode: it becomes a question mark.
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
    """The page as text. ``live``: it requests its pictures from a server; see `live`."""
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
    """JSON for a script element: ASCII only, with every character special to HTML escaped."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def policy(style: str, script: str, live: bool) -> str:
    """The content security policy. It allows this style, this script, embedded pictures, and the server if ``live``."""

    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; img-src data:; "
        f"{CONNECT if live else ''}base-uri 'none'; form-action 'none'"
    )
