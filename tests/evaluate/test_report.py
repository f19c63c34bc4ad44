"""The report: what is written comes back, whatever its texts are, and a real browser shows it and obeys the keyboard."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Page, expect

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Tube
from stvg.errors import UsageError
from stvg.evaluate.compare import ScoresFile, compare
from stvg.evaluate.metrics import SampleScore, score
from stvg.evaluate.predictions import write_predictions
from stvg.evaluate.report.breakdown import OUTCOMES, breakdowns, histogram, outcome, percentages
from stvg.evaluate.report.findings import Against, Evidence, ReportContent, Shades
from stvg.evaluate.report.frames import Taken, choose, pictured_frames, shrink, take_pictures
from stvg.evaluate.report.gallery import _evidence, fractions, shown, times
from stvg.evaluate.report.live import POLICY, LiveReport
from stvg.evaluate.report.page import json_block, render, write_report
from stvg.evaluate.report.training import POINTS, charts_of, read_training
from stvg.evaluate.report_commands import names_of
from stvg.evaluate.serve.host import serving
from stvg.extract.datasets.readers import read_annotations
from stvg.extract.video.clock import Clock
from stvg.extract.video.decode import read_frames
from stvg.heads.decision import Reading

from .pages import CONTRASTS, HOSTILE, Opened, a_reading, a_sample, made_up

fraction = st.floats(0, 1)
scores = st.builds(
    lambda i, t, v: SampleScore(i, f"v{i % 7}", "a dog", "all", t, min(t, v), v), st.integers(), fraction, fraction
)


@given(st.text(st.characters(codec=None), max_size=40))
def test_no_text_in_the_data_means_anything_to_html_and_every_one_comes_back(text):
    written = json_block({"sentence": text})
    assert re.fullmatch(r"[ -~]*", written)
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"sentence": text}


@given(st.lists(st.tuples(*[st.floats(-50, 300)] * 4), min_size=1, max_size=5))
def test_boxes_come_back_within_a_hundredth_of_a_pixel_cut_at_the_edge_of_the_frame(boxes):
    sample = a_sample(0)
    given_boxes = np.array([*boxes, [np.nan] * 4])
    stored = np.frombuffer(base64.b64decode(fractions(given_boxes, sample)), "<u2").reshape(-1, 4)
    size = [160, 120, 160, 120]
    np.testing.assert_allclose(stored[:-1] / 65535 * size, np.clip(given_boxes[:-1], 0, size), atol=0.01)
    assert stored[-1].tolist() == [65535, 65535, 0, 0]


@given(st.lists(st.floats(0, 1e3), min_size=1))
def test_shades_keep_the_peak_and_every_value_within_a_510th_of_it(values):
    shades = Shades.of(np.array(values))
    np.testing.assert_allclose(shades.levels / 255 * shades.peak, values, atol=shades.peak / 509 + 1e-300)


@given(st.lists(scores, min_size=1, unique_by=lambda s: s.sample_id), st.integers(0, 40))
def test_pictures_go_to_the_best_the_median_and_the_worst_by_turns_and_to_none_twice(samples, count):
    chosen = choose(samples, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(samples))
    value = {s.sample_id: s.vIoU for s in samples}
    ranked = sorted(value.values(), reverse=True)
    expected = [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    assert {value[i] for i in chosen[:3]} <= set(expected) or len(samples) < 3


@given(st.integers(1, 100), st.integers(0, 99), st.integers(0, 99))
def test_half_of_the_pictures_are_of_what_is_boxed_and_half_of_all_the_clip(T, start, length):
    clip = np.arange(T)
    found = pictured_frames(clip, (start, start + length), (0, 0))
    assert set(found) <= set(clip)
    assert len(found) <= 24
    assert len(found) >= min(12, T)
    assert ((found >= start) & (found < start + length)).sum() >= min(12, max(0, min(T - start, length)))


def test_windows_of_a_clip_share_one_matrix_unless_the_clip_is_so_long_that_it_would_not_be_looked_at():
    def reading(*sizes):
        T = sum(sizes)
        tube = Tube("a", 0, 5, np.arange(T), np.zeros((T, 4)))
        return Reading(tube, np.full(T, 1 / T), np.full(T, 1 / T), tuple(np.full((n, n), 1 / n) for n in sizes))

    found = Evidence.of(reading(3, 2))
    assert (found.attention.levels > 0).tolist() == [[True] * 3 + [False] * 2] * 3 + [[False] * 3 + [True] * 2] * 2
    np.testing.assert_allclose(found.looked_at.peak * found.looked_at.levels / 255, 0.2, atol=0.001)
    hour = Evidence.of(reading(*[100] * 180))
    assert hour.attention is None
    assert hour.looked_at.levels.shape == hour.start.levels.shape == (18_000,)
    assert set(_evidence(hour, whole=True)) == {"start", "end", "looked_at"}


@given(st.lists(scores, min_size=1))
def test_every_sample_has_one_outcome_and_one_place_in_each_distribution(samples):
    for s in samples:
        high = "Found" if s.vIoU > 0.5 else "Nearly"
        low = "Right time, wrong place" if s.tIoU > 0.5 else "Wrong time"
        assert OUTCOMES[outcome(s)][0] == (high if s.vIoU > 0.3 else low)
    assert sum(histogram([s.vIoU for s in samples])) == len(samples)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_percentages_are_whole_add_up_to_100_and_none_is_a_whole_one_off(counts):
    found = percentages(counts)
    assert sum(found) == (100 if sum(counts) else 0)
    assert all(abs(p - 100 * n / (sum(counts) or 1)) < 1 for p, n in zip(found, counts, strict=True))
    assert percentages([2, 1]) == [67, 33]


def test_every_sample_is_in_one_slice_of_each_breakdown_and_slices_of_one_measure_do_not_overlap():
    findings = made_up(40)
    found = breakdowns(findings.scores, findings.samples)
    assert list(found) == ["Length of the moment", "Size of the target", "Words in the sentence", "Kind of sentence"]
    assert all(sum(row.count for row in rows) == 40 for rows in found.values())
    assert [row.label for row in found["Length of the moment"]] == ["1.6 s"]
    assert [row.label for row in found["Size of the target"]] == ["6.2 % of the frame"]
    longer = [replace(s, sentence=" ".join("w" * (1 + s.sample_id % 10))) for s in findings.samples]
    slices = breakdowns(findings.scores, longer)["Words in the sentence"]
    assert [row.label for row in slices] == [f"{n} – {n + 1} words" for n in (1, 3, 5, 7, 9)]


def test_a_cut_last_line_of_the_metrics_is_left_out_and_anything_else_that_is_wrong_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_training(file) == [{"step": 1, "loss": 2.0}]
    for text in ('{"step": 1\n{"step": 2}\n', "[1]\n", '{"loss": 1}\n'):
        file.write_text(text)
        with pytest.raises(UsageError, match="no training metrics"):
            read_training(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_training(tmp_path / "none.jsonl")


def test_a_long_curve_is_drawn_through_means_and_ends_with_the_last_step():
    lines = [{"step": n, "loss": float(n % 2), "lr": 1.0} for n in range(1, 6001)]
    loss, rate = charts_of(lines)
    assert (loss.title, rate.title) == ("loss", "lr")
    (curve,) = loss.curves
    assert len(curve.steps) == POINTS
    assert curve.steps[-1] == 6000
    assert curve.values == pytest.approx([0.5] * POINTS)


def test_equal_findings_give_equal_bytes(tmp_path):
    pages = [write_report(tmp_path / f"{k}.html", made_up()).path.read_bytes() for k in range(2)]
    assert pages[0] == pages[1]


def test_frames_that_samples_share_are_stored_once_and_an_absent_video_is_a_fault_of_its_samples(synthetic):
    folder = synthetic / "vidor/video"
    samples = read_annotations("vidstg", synthetic, "test").samples
    wanted = [(s, pictured_frames(s.frames(Sampling(5, 100)), s.moment)) for s in samples]
    gone = replace(samples[-1], sample_id="gone", video=replace(samples[-1].video, video_id="gone", path="0/gone.mp4"))
    taken = take_pictures([*wanted, (gone, wanted[-1][1])], folder)
    pictures, faults = taken.pictures, taken.faults
    assert {video: fault.message for video, fault in faults.items()} == {
        "gone": "0/gone.mp4 is not in the folder of videos"
    }
    assert set(pictures) == {s.video.video_id for s in samples}
    for s, frames in wanted:
        assert set(frames.tolist()) <= set(pictures[s.video.video_id])
    assert sum(map(len, pictures.values())) < sum(len(frames) for _, frames in wanted)
    video = samples[0].video
    frame = next(iter(pictures[video.video_id]))
    (pixels,) = read_frames(folder / video.path, np.array([frame]), width=video.width, height=video.height)
    assert pictures[video.video_id][frame] == shrink(pixels[0])
    with pytest.raises(UsageError, match="not a folder of videos"):
        take_pictures(wanted, folder / "none")


def test_seconds_of_a_report_are_those_of_the_file_and_frames_where_the_rate_is_only_assumed():
    video = replace(made_up().samples[0].video, frame_count=4, fps=25.0)
    pause = Clock(np.array([0.0, 0.04, 60.04, 60.08]), 60.12, 0.04)
    assert times(video, "json", {}) == (25.0, True)
    assert times(video, "hcstvg-v1", {}) == (25.0, False)
    assert times(video, "hcstvg-v1", {video.video_id: Clock.steady(4, 10.0)}) == (10.0, True)
    assert times(video, "json", {video.video_id: pause}) == (round(4 / 60.12, 4), [0.0, 0.04, 60.04, 60.08, 60.12])


# In the browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """30 samples; the first sixteen have frames, striped ones of their own."""
    findings = made_up()
    before = replace(findings.scores, samples=[replace(s, vIoU=0.25) for s in findings.scores.samples])
    worse = replace(findings.scores, samples=[replace(s, vIoU=s.vIoU / 2) for s in findings.scores.samples])
    files = {name: ScoresFile.of(Path(name), s) for name, s in {"<b>flat</b>": before, "half": worse}.items()}
    ours = ScoresFile.of(Path("f"), findings.scores)
    against = [Against(name, compare(file, ours)) for name, file in files.items()]
    findings = replace(findings, against=against, facts={"head": "a/b.safetensors"})
    rows = shown(findings)
    chosen = [s.sample_id for s in findings.samples[:16]]
    pictures = {
        video: {f: shrink(np.full((120, 160, 3), 2 * f, np.uint8)) for f in range(0, 100, 5)}
        for video in {s.video.video_id for s in findings.samples[:16]}
    }
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(findings, rows, chosen, Taken(pictures)), encoding="utf-8")
    return path


def sentences(page: Page) -> list[str]:
    return page.locator(".card .open").all_text_contents()


def test_the_page_says_how_good_the_run_is_and_draws_a_page_of_examples(opened, written):
    page = opened(written)
    assert page.title() == "a run on synthetic test"
    lead = [int(n) for n in re.findall(r"\d+", page.locator(".lead").text_content().replace("0.5", ""))]
    assert lead[0] == sum(lead[1:]) == 30
    shares = [int(n) for n in re.findall(r"(\d+) %", page.locator(".outcomes").text_content())]
    assert sum(shares) == 100
    counts = page.locator(".bars.vIoU text").all_text_contents()
    assert sum(map(int, counts)) == 30
    assert page.locator(".tile h3").all_text_contents() == ["m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5"]
    assert page.locator("#count").text_content() == "30 of 30 samples"
    assert page.locator(".card").count() == 8
    assert page.locator(".card").first.locator("svg.frame").count() == 6
    assert page.locator("#training .curves").count() == 3
    assert page.locator("#against tbody tr").count() == 6
    assert page.locator("#against tbody bdi").all_text_contents()[:3] == ["declarative", "<b>flat</b>", "half"]
    assert page.locator(".tile .dot.r2").count() == 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_screen_and_every_text_stands_out(opened, written, scheme, width):
    """WCAG: text against what lies behind it at 4.5 to 1, with the player open, too."""
    page = opened(written, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".open").first.click()
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= innerWidth")
    assert page.evaluate(CONTRASTS) == []


def test_hostile_texts_are_shown_as_the_texts_they_are(opened, tmp_path):
    findings = made_up(len(HOSTILE), HOSTILE, name=HOSTILE[0], dataset=HOSTILE[1], split=HOSTILE[2])
    facts = {HOSTILE[1]: HOSTILE[0], "path": HOSTILE[3]}
    page = opened(write_report(tmp_path / "report.html", replace(findings, facts=facts)).path)
    page.locator("#order").select_option("file")
    page.locator("#on").click()
    assert sentences(page) == list(HOSTILE[8:])
    page.locator("#back").click()
    assert sentences(page) == list(HOSTILE[:8])
    assert page.locator(".card bdi:last-child").all_text_contents() == list(HOSTILE[:8])
    assert page.locator("h1 > bdi").text_content() == HOSTILE[0]
    assert page.locator("#how dd").all_text_contents()[:2] == [HOSTILE[0], HOSTILE[3]]
    assert page.locator(".card img, .card script, .card b b, header script, #how script").count() == 0
    page.locator(".open").nth(1).click()
    assert page.locator("#player-sentence").text_content() == HOSTILE[1]
    assert page.evaluate("getComputedStyle(document.querySelectorAll('.open')[4]).direction") == "rtl"
    for _ in range(3):
        page.keyboard.press("j")
    assert page.evaluate("getComputedStyle(document.querySelector('#player-sentence')).direction") == "rtl"
    for _ in range(4):
        page.keyboard.press("j")
    assert page.locator("#player-sentence").text_content() == HOSTILE[8]
    assert page.evaluate("[document.documentElement, player].every((e) => e.scrollWidth <= e.clientWidth)")


def test_the_policy_lets_no_other_script_or_style_run_and_nothing_load(chromium, written):
    page = Opened(chromium, written)
    refused = page.page.evaluate("""async () => {
      const refused = [];
      addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
      const script = document.createElement('script');
      script.textContent = 'window.ran = true';
      document.body.append(script);
      const bad = '<p id="p" style="color: red" onclick="window.ran = true">x</p><img src="https://example.org/x.png">';
      document.body.insertAdjacentHTML('beforeend', bad);
      document.querySelector('#p').click();
      await fetch('https://example.org/').catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 100));
      return refused;
    }""")
    assert page.page.evaluate("window.ran") is None
    assert set(refused) == {"script-src-elem", "script-src-attr", "style-src-attr", "img-src", "connect-src"}
    page.context.close()


def test_search_kind_outcome_and_order_narrow_and_arrange_what_is_shown(opened, written):
    page = opened(written)
    page.locator("#search").fill("MOVES N17")
    assert sentences(page) == ["the thing n17 moves"]
    page.locator("#search").fill("v3")
    assert sorted(sentences(page)) == ["the thing n06 moves", "the thing n07 moves"]
    page.locator("#search").fill("no such thing")
    assert page.locator("#count").text_content() == "None of 30 samples matches"
    page.locator("#search").fill("")
    page.locator("#order").select_option("best")
    assert sentences(page)[0] == "the thing n00 moves"
    page.locator("#order").select_option("worst")
    assert page.locator(".chip.o3").first.text_content() == "vIoU 0.0"
    page.locator("#order").select_option("change")
    assert page.locator(".chip.better").first.text_content() == "+75.0"
    assert page.locator(".card").first.locator(".chip .swatch").count() == 2
    page.locator("#order").select_option("file")
    page.locator("#kind").select_option("interrogative")
    assert sentences(page) == [f"the thing n{i:02} moves" for i in range(1, 16, 2)]
    page.locator("#kind").select_option("")
    page.locator("[data-outcome='3']").click()
    assert page.locator("[data-outcome='3']").get_attribute("aria-pressed") == "true"
    assert page.locator(".chip.o3").count() == page.locator(".card").count() > 0
    page.locator("[data-outcome='3']").click()
    assert page.locator("#count").text_content() == "30 of 30 samples"


def test_a_bar_of_a_histogram_shows_its_examples_and_the_list_of_scores_does_so_from_the_keyboard(opened, written):
    page = opened(written)
    for part in (0, 9):
        bar = page.locator(f"[data-range='vIoU:{part}']")
        count = bar.locator("text").text_content()
        bar.locator(".hit").click()
        assert page.locator("#count").text_content() == f"{count} of 30 samples"
        assert "chosen" in bar.get_attribute("class")
        assert page.locator("#range").evaluate("(list) => list.selectedOptions[0].textContent").endswith(f"({count})")
        assert page.evaluate("cards.getBoundingClientRect().top < innerHeight")
        bar.locator(".hit").click()
        assert page.locator("#count").text_content() == "30 of 30 samples"
    options = page.locator("#range option").all_text_contents()[1:]
    for measure in ("tIoU", "vIoU"):
        assert sum(int(o.rpartition("(")[2].rstrip(")")) for o in options if o.startswith(measure)) == 30
    page.locator("#range").select_option(index=1)
    assert page.locator(".card").count() > 0


def test_what_was_searched_for_is_in_view_wherever_the_search_began(opened, written):
    page = opened(written)
    seen = "document.querySelector('.card').getBoundingClientRect().top"
    for place in ("0", "document.body.scrollHeight"):
        page.evaluate(f"scrollTo(0, {place})")
        page.keyboard.press("/")
        page.keyboard.type("n1")
        assert sentences(page)
        top = page.evaluate(seen)
        assert page.evaluate("filters.getBoundingClientRect().bottom") - 1 <= top < 600
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.press("Delete")
        page.evaluate("document.activeElement.blur()")


def test_an_example_has_an_address_that_opens_it_whatever_is_filtered(opened, tmp_path):
    findings = made_up(12)
    names = {0: "half a character \ud83d", 1: "a b/ü?#&%"}
    findings = replace(
        findings, samples=[replace(s, sample_id=names.get(s.sample_id, s.sample_id)) for s in findings.samples]
    )
    tubes = {names.get(i, i): tube for i, tube in findings.tubes.items()}
    scored = [replace(s, sample_id=names.get(s.sample_id, s.sample_id)) for s in findings.scores.samples]
    findings = replace(findings, tubes=tubes, scores=replace(findings.scores, samples=scored), evidence={})
    page = opened(write_report(tmp_path / "report.html", findings).path)
    page.locator("#order").select_option("file")
    for row in (0, 1, 5):
        page.locator(".open").nth(row).click()
        address, sentence = page.url, page.locator("#player-sentence").text_content()
        assert "#sample=" in address
        page.keyboard.press("Escape")
        expect(page).not_to_have_url(re.compile("#"))
        page.locator("#search").fill("no such thing")
        page.evaluate("(hash) => (location.hash = hash)", "#" + address.partition("#")[2])
        expect(page.locator("#player-sentence")).to_have_text(sentence)
        page.keyboard.press("Escape")
        page.locator("#order").select_option("file")
    page.goto(address)
    page.reload()
    assert page.locator("#player-sentence").text_content() == sentence
    page.evaluate("location.hash = '#sample=none'")


def test_the_slider_stands_above_the_cursor_and_a_play_passes_every_picture(opened, written):
    page = opened(written)
    page.locator("#search").fill("n06")
    page.locator(".open").click()
    line = page.locator("#player-timeline .timeline").bounding_box()
    for frame in (0, 25, 100):
        page.locator("#scrub").evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", frame)
        cursor = page.locator("#player .cursor").evaluate("(c) => c.getBoundingClientRect().left") - line["x"]
        assert cursor / line["width"] == pytest.approx(frame / 100, abs=0.01)
        slider = page.locator("#scrub").bounding_box()
        thumb = slider["x"] + 8 + frame / 100 * (slider["width"] - 16) - line["x"]
        assert thumb == pytest.approx(cursor, abs=1)
    page.keyboard.press("Home")
    seen = page.evaluate("""() => new Promise((done) => {
      const seen = new Set(); let moves = 0;
      new MutationObserver(() => { seen.add(stage.firstChild.getAttribute('aria-label')); moves += 1; })
        .observe(clock, { childList: true });
      play.addEventListener('click', () => {}, { once: true });
      document.querySelector('#play').click();
      setTimeout(() => done([seen.size, moves]), 1500);
    })""")
    assert seen[0] >= 5
    assert seen[1] > 2 * seen[0]


def test_a_time_line_has_seconds_and_frames_where_a_rate_is_only_assumed(opened, tmp_path, written):
    page = opened(written)
    assert page.locator(".card").first.locator(".when").all_text_contents() == ["0 s", "1 s", "2 s", "3 s", "4 s"]
    page = opened(write_report(tmp_path / "report.html", made_up(3, dataset="hcstvg-v1")).path)
    assert page.locator(".card").first.locator(".when").all_text_contents() == [*map(str, range(0, 101, 30))]


def test_pages_hold_every_sample_once_and_end(opened, written):
    page = opened(written)
    seen = sentences(page)
    while page.locator("#on").is_enabled():
        page.locator("#on").click()
        seen += sentences(page)
    assert len(seen) == 30
    assert set(seen) == {f"the thing n{i:02} moves" for i in range(30)}
    assert page.locator("#page").text_content() == "Page 4 of 4"


def test_everything_can_be_done_with_the_keyboard(opened, written):
    page = opened(written)
    press = page.keyboard.press
    press("/")
    page.keyboard.type("number 4 /")
    assert page.locator("#search").input_value() == "number 4 /"
    press("ControlOrMeta+A")
    page.keyboard.type("moves")
    page.locator("#range").focus()
    press("Tab")
    first, second = sentences(page)[:2]
    assert page.evaluate("document.activeElement.textContent") == first
    outline = "getComputedStyle(document.activeElement, '::after').outlineStyle"
    assert page.evaluate(outline) == "solid"
    press("Enter")
    clock = page.locator("#clock")
    assert page.locator("#player-sentence").text_content() == first
    press("Home")
    assert clock.text_content() == "0.0 s · frame 0"
    press("ArrowRight")
    press("ArrowRight")
    assert "frame 10" in clock.text_content()
    press("ArrowLeft")
    press("ArrowLeft")
    press("ArrowLeft")
    assert "frame 0" in clock.text_content()
    press("End")
    assert "frame 95" in clock.text_content()
    press("j")
    assert page.locator("#player-sentence").text_content() == second
    press("k")
    assert page.locator("#player-sentence").text_content() == first
    press("Home")
    press(" ")
    expect(clock).not_to_have_text("0.0 s · frame 0")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    press(" ")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    press("Escape")
    assert not page.locator("#player").is_visible()
    assert page.evaluate("document.activeElement.textContent") == first


def test_the_player_draws_both_boxes_where_they_are_over_the_picture_of_that_frame(opened, written):
    page = opened(written)
    page.locator("#search").fill("n06")
    page.locator(".open").click()
    page.keyboard.press("Home")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    stage = page.locator("#stage svg")
    assert page.locator("#clock").text_content() == "1.4 s · frame 35 · IoU 100.0"
    for name in ("truth", "guess"):
        box = stage.locator(f".box.{name}")
        found = [float(box.get_attribute(key)) for key in ("x", "y", "width", "height")]
        assert found == pytest.approx([25, 20, 40, 30], abs=0.01)
    shade = page.evaluate("""async () => {
      const picture = new Image();
      picture.src = document.querySelector('#stage image').getAttribute('href');
      await picture.decode();
      const canvas = new OffscreenCanvas(1, 1).getContext('2d');
      canvas.drawImage(picture, 0, 0);
      return canvas.getImageData(0, 0, 1, 1).data[0];
    }""")
    assert shade == pytest.approx(70, abs=3)
    page.keyboard.press("Home")
    assert stage.locator(".box").count() == 0
    assert stage.get_attribute("aria-label") == "Frame 0: no box"
    assert page.locator("#player .cursor").get_attribute("x1") == "0%"
    band = page.locator("#player .band.guess")
    found = [float(band.get_attribute(key).rstrip("%")) for key in ("x", "width")]
    assert found == pytest.approx([28, 40])  # sample 6 is 8 of 100 frames late
    assert page.locator(".matrix canvas").evaluate("c => c.width") == 20


def test_a_sample_without_pictures_shows_its_tube_on_empty_frames(opened, written):
    page = opened(written)
    page.locator("#search").fill("n20")
    assert page.locator(".card image").count() == 0
    assert page.locator(".card .box.truth").count() > 0
    page.locator(".open").click()
    assert page.locator("#stage .frame").is_visible()
    assert page.locator("#heat").is_hidden()


def test_colours_follow_the_system_until_they_are_chosen(opened, written):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = opened(written, color_scheme="dark")
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(ground) == dark
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: dark"
    page.locator("#theme").click()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == light


def test_nothing_moves_by_itself_for_those_who_asked_for_less_motion(opened, written):
    page = opened(written, reduced_motion="no-preference")
    moves = "[getComputedStyle(document.documentElement).scrollBehavior, getComputedStyle(document.querySelector('.card')).transitionProperty]"  # noqa: E501
    assert page.evaluate(moves) == ["smooth", "border-color"]
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moves) == ["auto", "none"]


def of_annotations(annotations: Path) -> ReportContent:
    """Perfect predictions for the synthetic dataset."""
    samples = read_annotations("vidstg", annotations, "test").samples
    tubes = {s.sample_id: Tube(s.sample_id, *s.moment, np.arange(*s.moment), s.boxes) for s in samples}
    known = {"samples": samples, "tubes": tubes, "scores": score(samples, tubes), "evidence": {}, "training": []}
    return made_up(1, **known, dataset="vidstg")


def test_a_report_that_is_served_reads_frames_of_every_sample_when_it_is_looked_at(opened, synthetic, tmp_path):
    findings = of_annotations(synthetic)
    gone = replace(findings.samples[0].video, video_id="gone", path="0/gone.mp4")
    first = replace(findings.samples[0], video=gone)
    live = LiveReport(replace(findings, samples=[first, *findings.samples[1:]]), synthetic / "vidor/video")
    with serving(live.routes, POLICY, 0) as address:
        page = opened(address)
        page.locator("#order").select_option("file")
        expect(page.locator(".card").nth(1).locator("image")).to_have_count(6)
        assert page.locator(".card").nth(0).locator("image").count() == 0
        expect(page.locator(".card").nth(0)).to_contain_text("0/gone.mp4 is not in the folder of videos")
        page.locator(".open").nth(2).click()
        expect(page.locator("#stage image")).to_have_count(1)
        frames = findings.samples[2].frames(Sampling(5, 100)).tolist()
        page.keyboard.press("Home")
        for frame in frames[:4]:
            assert f"frame {frame} " in page.locator("#clock").text_content() + " "
            assert page.locator("#stage svg").get_attribute("data-shown") == str(frame)
            page.keyboard.press("ArrowRight")
        page.keyboard.press("j")
        expect(page.locator("#stage image")).to_have_count(1)
    assert live.pictures_of.cache_info().misses >= 4


def predict_perfectly(annotations: Path, out: Path) -> int:
    """Write predictions that equal the annotations; how many."""
    samples = read_annotations("vidstg", annotations, "test").samples
    tubes = [Tube(s.sample_id, *s.moment, np.arange(*s.moment), s.boxes) for s in samples]
    return write_predictions(out, tubes)


def test_the_command_makes_a_page_of_anyones_predictions_with_frames_of_the_videos(opened, stvg, synthetic, tmp_path):
    count = predict_perfectly(synthetic, tmp_path / "tubes.jsonl")
    words = ["--predictions", tmp_path / "tubes.jsonl", "--dataset", "vidstg", "--annotations", synthetic]
    page = tmp_path / "report.html"
    ran = stvg("report", *words, "--videos", synthetic / "vidor/video", "--pictures", 3, "--out", page)
    assert ran.code == 0, ran.err
    assert "3 samples with frames" in ran.out
    shows = opened(page)
    assert shows.locator(".figure").first.text_content() == "100.0"
    assert shows.locator("#count").text_content() == f"{count} of {count} samples"
    assert shows.locator(".card").first.locator("image").count() == 6
    assert shows.locator("table.scores tbody td").get_by_text("TubeDETR").count() == 0
    assert f"these {count} are not that split" in shows.locator("details .quiet").first.text_content()
    assert shows.locator("#training, #against, .chances, noscript p").count() == 0


def test_a_page_is_whole_without_a_video_that_cannot_be_read_and_says_so(opened, stvg, synthetic, tmp_path):
    predict_perfectly(synthetic, tmp_path / "tubes.jsonl")
    (tmp_path / "videos").mkdir()
    words = ["--predictions", tmp_path / "tubes.jsonl", "--dataset", "vidstg", "--annotations", synthetic]
    ran = stvg("report", *words, "--videos", tmp_path / "videos", "--out", tmp_path / "report.html")
    assert ran.code == 3
    assert "is not in the folder of videos" in ran.err
    page = opened(tmp_path / "report.html")
    assert page.locator(".faults summary").text_content() == "2 videos could not be read"
    assert page.locator(".faults li").count() == 2
    assert str(tmp_path) not in (tmp_path / "report.html").read_text()
    assert page.locator(".card .box.truth").count() > 0


def test_a_run_is_not_set_beside_scores_that_were_counted_in_another_way(stvg, synthetic, tmp_path):
    predict_perfectly(synthetic, tmp_path / "tubes.jsonl")
    words = ["--predictions", tmp_path / "tubes.jsonl", "--dataset", "vidstg", "--annotations", synthetic]
    assert stvg("evaluate", *words, "--protocol", "dense", "--json", tmp_path / "dense.json").code == 0
    out = tmp_path / "report.html"
    ran = stvg("report", *words, "--against", tmp_path / "dense.json", "--out", out)
    assert ran.code == 1
    assert "not scored alike" in ran.err
    assert not out.exists()
    assert stvg("report", *words[:2], "--checkpoint", "x").code == 2


def test_findings_without_evidence_or_training_make_a_page(opened, tmp_path):
    findings: ReportContent = made_up(3, evidence={}, training=[])
    page = opened(write_report(tmp_path / "report.html", findings).path)
    assert page.locator(".card").count() == 3
    assert page.locator(".chances, #training").count() == 0


def test_where_frames_decide_their_probability_is_drawn_and_explained(opened, tmp_path):
    findings: ReportContent = made_up(2)
    readings = [a_reading(s, 0) for s in findings.samples]
    sure = [replace(r, inside=np.where(np.arange(len(r.start)) < 3, 2.0, -2.0)) for r in readings]
    told = {r.tube.sample_id: Evidence.of(r) for r in sure}
    assert "of being inside" not in write_report(tmp_path / "ends.html", findings).path.read_text()
    page = opened(write_report(tmp_path / "frames.html", replace(findings, evidence=told)).path)
    assert page.locator(".legend", has_text="of being inside").count() >= 1
    heights = page.locator(".chances .inside").first.get_attribute("points").split()
    assert [round(float(point.split(",")[1])) for point in heights[:4]] == [12, 12, 12, 88]


def test_the_names_of_other_runs_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    files = [Path(name) for name in ("x/b.json", "y/b.json", "p/z/c.json", "q/z/c.json", "/r/fsm.json")]
    assert names_of(files, "fsm") == ["x/b", "y/b", "p/z/c.json", "q/z/c.json", "r/fsm"]
    assert names_of([Path("a.json")], "fsm") == ["a"]
    with pytest.raises(UsageError, match="names a file twice"):
        names_of([Path("a.json"), Path("./a.json")], "fsm")
