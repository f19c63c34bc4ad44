"""ReportContent made up for the report's tests, and the browser that shows them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample, Tube, Video
from stvg.evaluate.metrics import score
from stvg.evaluate.report.findings import Evidence, ReportContent
from stvg.heads.decision import Reading

from ..conftest import left_out

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SAMPLING = Sampling(5.0, 100)
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "]]><!-- \" ' ` --> {{ 7 * 7 }} {% raw %}",
    "../../x?<b>&amp;&#60;",
    "א ילד רוכב על אופניים\u202e\u2066 (שמאלה)",
    "line\u2028and paragraph\u2029separators, a \x07 bell",
    "👩‍🚒 climbs the 🪜",
    "half a character: \ud83d",
    "x" * 400,
)


def a_sample(i: int, sentence: str | None = None, video: str | None = None, kind: str | None = None) -> Sample:
    """4 seconds of 25 fps, 160x120; the moment is [20, 60), its box 40x30 and moving one pixel a frame."""
    left = 10.0 + np.arange(40)
    boxes = np.stack([left, np.full(40, 20.0), left + 40, np.full(40, 50.0)], axis=1)
    clip = Video(video or f"v{i // 2}", f"{video or f'v{i // 2}'}.mp4", 160, 120, 25.0, 100)
    kind = kind or ("declarative", "interrogative")[i % 2]
    return Sample(i, clip, sentence or f"the thing n{i:02} moves", kind, "test", (0, 100), (20, 60), boxes)


def a_reading(sample: Sample, off: float) -> Reading:
    """The annotated tube, begun and ended ``off`` frames late; certain of both ends; every slot looks at itself most."""
    frames = sample.frames(SAMPLING)
    start, end = 20 + round(off), 60 + round(off)
    boxes = sample.boxes[np.clip(frames - 20, 0, 39)]
    T = len(frames)
    at = np.eye(T)[[int(np.searchsorted(frames, start)), min(T - 1, int(np.searchsorted(frames, end)))]]
    attention = np.full((T, T), 0.5 / T) + 0.5 * np.eye(T)
    return Reading(Tube(sample.sample_id, start, end, frames, boxes, 0.9, 0), at[0], at[1], (attention,))


def a_line(step: int) -> dict[str, Any]:
    """Of metrics.jsonl; every tenth is one of validation."""
    if step % 10:
        return {"step": step, "loss": 10 / step, "l1": 5 / step}
    return {"step": step, "epoch": step // 10, "validation": {"m_tIoU": step / 80, "m_vIoU": step / 100}}


def made_up(count: int = 30, sentences: tuple[str, ...] = (), **changes: Any) -> ReportContent:
    """``count`` samples, each a little later than the one before it; the first have the given sentences."""
    samples = [
        a_sample(i, sentences[i] if i < len(sentences) else None, sentences[i] if i < len(sentences) else None)
        for i in range(count)
    ]
    readings = [a_reading(s, 40 * i / count) for i, s in enumerate(samples)]
    tubes = {r.tube.sample_id: r.tube for r in readings}
    values: dict[str, Any] = {
        "name": "a run",
        "dataset": "synthetic",
        "split": "test",
        "scores": score(samples, tubes, sampling=SAMPLING),
        "samples": samples,
        "tubes": tubes,
        "evidence": {r.tube.sample_id: Evidence.of(r) for r in readings},
        "training": [*map(a_line, range(1, 51))],
    }
    return ReportContent(**{**values, **changes})


# Texts that hardly stand out against what lies behind them: under 4.5 to 1.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return Array.from(canvas.getImageData(0, 0, 1, 1).data, (v) => v / 255);
  };
  const luminance = ([r, g, b]) => {
    const f = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; } };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest('svg, script, style, noscript, option') || !e.checkVisibility() || e.disabled) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName}.${e.className}: ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""  # noqa: E501


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium. Without one the tests are skipped, with the reason; in CI they fail."""
    with sync_playwright() as driver:
        chromium = _launched(driver)
        yield chromium
        chromium.close()


def _launched(driver: Playwright) -> Browser:
    """The first browser that starts: those on the path, then the one of `playwright install`."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    found += [path for path in [driver.chromium.executable_path] if Path(path).exists()]
    why = f"none of {', '.join(BROWSERS)} is on the path"
    for path in found:
        try:
            return driver.chromium.launch(executable_path=path)
        except Error as error:  # a distribution's stub, or libraries that are missing
            why = f"{path} does not start: {error.message.splitlines()[0]}"
    raise left_out(f"no Chromium to show the page in ({why}): apt-get install chromium")


class Opened:
    """A page, and everything it did that it should not do."""

    def __init__(self, chromium: Browser, where: Path | str, ready: str = "#count:not(:empty)", **context: Any) -> None:
        usual = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"}
        self.context = chromium.new_context(**{**usual, **context})
        self.page: Page = self.context.new_page()
        self.own, self.wrong = where if isinstance(where, str) else where.as_uri(), list[str]()
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)
        self.page.goto(self.own)
        self.page.wait_for_selector(ready)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.own, "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")
