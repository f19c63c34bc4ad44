"""How large a report grows and how soon it can be used, in a headless Chromium, for samples of 75 slots.

    uv run python tests/benchmarks/report.py [--counts 100 1000 10000] [--slots 75] [--keep FOLDER]

Each page is opened five times, warm; the median is printed, and as a ratio to the smallest page's. Prints a Markdown
table. Usable: the page's script has run, and the first examples are drawn.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from tables import heading, line

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample, Tube, Video
from stvg.evaluate.metrics import score
from stvg.evaluate.report.findings import Evidence, ReportContent
from stvg.evaluate.report.frames import Taken, choose, pictured_frames, shrink
from stvg.evaluate.report.gallery import clip_frames, shown
from stvg.evaluate.report.page import PICTURES, render
from stvg.heads.decision import Reading

WORDS = (
    "the",
    "a",
    "dog",
    "cat",
    "child",
    "ball",
    "in",
    "on",
    "behind",
    "runs",
    "watches",
    "holds",
    "red",
    "sofa",
    "above",
)
MEASURE = """async () => {
  const timed = (act) => { const start = performance.now(); act(); return performance.now() - start; };
  const byId = (id) => document.getElementById(id);
  const find = (text) => { byId('search').value = text; byId('filters').dispatchEvent(new Event('input')); };
  return {
    usable: performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,
    search: timed(() => find('dog')),
    again: timed(() => find('dog ru')),
    turn: timed(() => byId('on').click()),
    open: timed(() => document.querySelector('.open').click()),
    heap: performance.memory.usedJSHeapSize / 1e6,
  };
}"""


def a_split(count: int, slots: int) -> ReportContent:
    """``count`` sentences, 15 to a video as in VidSTG, with noise for evidence."""
    rng = np.random.default_rng(0)
    samples, tubes, evidence = [], {}, {}
    for i in range(count):
        video = Video(f"{i // 15:05d}", f"{i // 15}.mp4", 640, 480, 25.0, 5 * slots)
        start, length = int(rng.integers(0, 3 * slots)), int(rng.integers(slots, 2 * slots))
        corner = np.cumsum(rng.integers(-2, 3, (length, 2)), axis=0) + 250
        boxes = np.concatenate([corner, corner + rng.integers(40, 200, 2)], axis=1).astype(np.float64)
        kind = ("declarative", "interrogative")[i % 2]
        sentence = " ".join(rng.choice(WORDS, 10))
        sample = Sample(i, video, sentence, kind, "test", (0, 5 * slots), (start, start + length), boxes)
        frames = sample.frames(Sampling())
        T = len(frames)
        known = sample.boxes_at(np.clip(frames, start, start + length - 1))
        tube = Tube(i, start + rng.integers(-30, 30), start + length, frames, known + rng.normal(0, 20, (T, 4)), 0.8, 0)
        attention = rng.dirichlet(np.full(T, 0.3), T)
        reading = Reading(tube, rng.dirichlet(np.full(T, 0.1)), rng.dirichlet(np.full(T, 0.1)), (attention,))
        samples.append(sample)
        tubes[i], evidence[i] = tube, Evidence.of(reading)
    return ReportContent("a run", "benchmark", "test", score(samples, tubes), samples, tubes, evidence)


def write(path: Path, findings: ReportContent) -> None:
    """A page with as many pictures as usual, of smooth noise."""
    rng = np.random.default_rng(0)
    rows = shown(findings)
    chosen = choose([s for _, _, s in rows], PICTURES)
    pictures: dict[str, dict[int, bytes]] = {}
    for i in chosen:
        sample = findings.samples[int(i)]
        for frame in pictured_frames(clip_frames(findings, sample), sample.moment).tolist():
            noise = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            pictures.setdefault(sample.video.video_id, {})[frame] = shrink(noise)
    path.write_text(render(findings, rows, chosen, Taken(pictures)), encoding="utf-8")


def measure(chromium: Browser, path: Path, rounds: int = 5) -> dict[str, float]:
    """Medians in ms, and the heap in MB; one round before is not counted."""
    found = []
    for _ in range(rounds + 1):
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        found.append(page.evaluate(MEASURE))
        page.close()
    return {name: statistics.median(f[name] for f in found[1:]) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--slots", type=int, default=75)
    parser.add_argument("--keep", type=Path, help="leave the pages here")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"))
        print(f"Chromium {chromium.version}, {chosen.slots} slots a sample, {PICTURES} samples with frames\n")
        names = ["usable after", "ratio", "first search", "next search", "turn a page", "open one", "heap MB"]
        print(heading(["samples", "written in", "MB", *names]))
        least = None
        for count in chosen.counts:
            path = (chosen.keep or Path(scratch)) / f"report-{count}.html"
            findings = a_split(count, chosen.slots)
            start = time.perf_counter()
            write(path, findings)
            took = time.perf_counter() - start
            found = measure(chromium, path)
            least = least or found["usable"]
            times = [f"{found[name]:.0f} ms" for name in ("search", "again", "turn", "open")]
            cells = [f"{count:,}", f"{took:.1f} s", f"{path.stat().st_size / 1e6:.1f}", f"{found['usable']:.0f} ms"]
            cells += [f"{found['usable'] / least:.1f}", *times, f"{found['heap']:.0f}"]
            print(line(cells), flush=True)
        chromium.close()


if __name__ == "__main__":
    main()
