"""The page of `stvg predict --serve`: it answers what the command answers, to its own user only, one question at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect

from stvg.evaluate.evaluation import load_head
from stvg.evaluate.grounding.predictor import Predictor
from stvg.evaluate.serve import site
from stvg.evaluate.serve.desk import SENTENCES, WAITING, Desk
from stvg.evaluate.serve.host import serving
from stvg.evaluate.serve.site import POLICY, Site

from .pages import CONTRASTS

CPU = torch.device("cpu")
NONE = {"backbone_weights": None, "text_weights": None, "tokenizer": None, "weights_seed": 0}
HOSTILE = ["<script>alert(1)</script>", "</h3><img src=x onerror=alert(2)> \" ' {{ 7 * 7 }}", "א ילד רוכב\u202e 👩‍🚒"]


@pytest.fixture(scope="module")
def predictor(checkpoint, tmp_path_factory) -> Predictor:
    return Predictor(load_head(checkpoint, CPU), NONE, tmp_path_factory.mktemp("features"), CPU)


@pytest.fixture(scope="module")
def videos(video, tmp_path_factory) -> Path:
    """A folder to choose from, beside which lies what nobody may have."""
    folder = tmp_path_factory.mktemp("beside") / "videos"
    (folder / "0").mkdir(parents=True)
    shutil.copy(video, folder / "0" / "a <b>name & 🙂.mp4")
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no video")
    shutil.copy(video, folder.parent / "secret.mp4")
    return folder


@contextmanager
def at_work(desk: Desk) -> Iterator[None]:
    """Questions are answered while the block runs."""
    worker = Thread(target=desk.work)
    worker.start()
    try:
        yield
    finally:
        desk.close()
        worker.join()


ABOUT = {"head": "run/best.safetensors", "settings": "fsm, <b>preset</b> tiny"}


@contextmanager
def site_of(desk: Desk, videos: Path | None, uploads: Path) -> Iterator[str]:
    """The address of a page."""
    with serving(Site(desk, videos, uploads, ABOUT).routes, POLICY, 0) as address:
        yield address


@pytest.fixture
def served(predictor, videos, tmp_path) -> Iterator[tuple[str, Desk]]:
    """A page's address, and its desk: nobody works there but in `at_work`."""
    (tmp_path / "uploads").mkdir()
    desk = Desk(predictor, tmp_path / "answers", moments=3)
    with site_of(desk, videos, tmp_path / "uploads") as address:
        yield address, desk


@pytest.fixture
def asking(opened, served) -> Callable[..., Page]:
    """Open the page."""
    return lambda **context: opened(served[0], ready="#head:not(:empty)", **context)


def call(
    address: str, path: str = "", method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[HTTPResponse, bytes]:
    """Whatever one likes to send, as no browser would: the path as it is, any Host."""
    place = urlsplit(address)
    connection = HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request(method, place.path + path if not path.startswith("/") else path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def ask(address: str, **question: object) -> dict[str, object]:
    return json.loads(call(address, "questions", "POST", json.dumps(question).encode())[1])


def test_a_video_that_is_sent_is_grounded_and_shown_and_no_text_means_anything_to_the_page(asking, served, videos):
    page = asking()
    page.locator("#file").set_input_files(videos / "0" / "a <b>name & 🙂.mp4")
    page.locator("#sentences").fill("\n".join([HOSTILE[0], "  ", *HOSTILE[1:]]))
    page.locator("#sentences").press("Control+Enter")
    with at_work(served[1]):
        expect(page.locator(".answer")).to_have_count(3, timeout=60_000)
    assert page.locator(".answer h2").all_text_contents() == HOSTILE
    assert page.locator(".asked bdi").text_content() == "a <b>name & 🙂.mp4"
    assert page.locator("main img, main b, #answers script").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelectorAll('.answer h2')[2]).direction") == "rtl"
    assert re.fullmatch(r"\d+\.\d – \d+\.\d s", page.locator(".chip").first.text_content())
    assert page.locator("#status").text_content() == ""
    page.locator(".answer button").first.click()
    deadline = time.monotonic() + 30
    while not page.evaluate(
        "document.querySelector('.answer video').currentTime > 0"
    ):  # the page forbids what would wait in it
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    film = page.locator(".answer video").first.evaluate("(film) => [film.error, film.videoWidth, film.duration > 1]")
    assert film == [None, 160, True]


def test_a_video_of_the_folder_gets_the_answer_of_the_command(stvg, asking, served, videos, checkpoint, tmp_path):
    page = asking()
    options = page.locator("#chosen option").all_text_contents()
    assert options == ["none", "0/a <b>name & 🙂.mp4", "broken.mp4"]
    page.locator("#chosen").select_option(options[1])
    page.locator("#sentences").fill("what moves?")
    page.locator("#ask").click()
    with at_work(served[1]):
        expect(page.locator(".answer")).to_have_count(1, timeout=60_000)
    with page.expect_download() as download:
        page.get_by_text("All boxes").click()
    words = [
        "what moves?",
        "--checkpoint",
        checkpoint,
        "--device",
        "cpu",
        "--out",
        tmp_path,
        "--no-video",
        "--moments",
        3,
    ]
    assert stvg("predict", videos / options[1], *words).code == 0
    found, expected = (
        json.loads(path.read_bytes()) for path in (download.value.path(), tmp_path / "predictions.jsonl")
    )
    assert found.pop("video") == options[1]  # as it was chosen, with its folder
    assert expected.pop("video") == Path(options[1]).name
    assert (found.pop("film"), len(found.pop("film_sha256"))) == ("1.mp4", 16)
    assert found == expected


def test_the_chosen_video_is_shown_before_it_is_asked_of_and_the_model_is_named(asking, served):
    page = asking()
    assert page.locator("#head").text_content() == ABOUT["head"]
    page.locator("#about summary").click()
    assert page.locator("#facts dd").all_text_contents() == [*ABOUT.values()]
    assert page.locator("#preview").is_hidden()
    page.locator("#chosen").select_option("0/a <b>name & 🙂.mp4")
    preview = page.locator("#preview video")
    expect(preview).to_be_visible()
    expect(preview).to_have_js_property("videoWidth", 160, timeout=30_000)
    page.locator("#chosen").select_option("broken.mp4")
    expect(page.locator("#preview figcaption")).to_contain_text("cannot play broken.mp4", timeout=30_000)
    page.locator("#chosen").select_option("none")
    assert page.locator("#preview").is_hidden()
    for name in ("../secret.mp4", "notes.txt", "nonsuch.mp4", ""):
        assert call(served[0], f"preview?video={name}")[0].status == 404


def test_answers_are_there_after_a_reload_and_those_that_wait_come_later(asking, served):
    address, desk = served
    call(address, "videos")
    file = "0/a <b>name & 🙂.mp4"
    ask(address, video=file, sentences=["who?", "what?"])
    ask(address, video="broken.mp4", sentences=["what?"])
    ask(address, video=file, sentences=["where?"])
    page = asking()
    with at_work(desk):
        expect(page.locator(".answer h2")).to_have_text(["where?", "who?", "what?"], timeout=60_000)
    page.reload()
    expect(page.locator(".answer h2")).to_have_text(["where?", "who?", "what?"])
    assert page.locator(".asked bdi").all_text_contents() == [file, "broken.mp4", file]
    expect(page.locator(".doubts", has_text="broken.mp4 is not a video that can be opened")).to_be_visible()
    assert page.locator("#ask").is_enabled()


def test_every_moment_can_be_played_and_stands_on_a_bar_that_the_player_does_not_cover(asking, served):
    address, desk = served
    call(address, "videos")
    number = ask(address, video="0/a <b>name & 🙂.mp4", sentences=["what moves?"])["question"]
    with at_work(desk):
        pass
    state = json.loads(call(address, f"questions/{number}")[1])
    (answer,) = state["answers"]
    page = asking()
    expect(page.locator(".answer .moment button")).to_have_count(len(answer["moments"]))
    expect(page.locator(".answer video")).to_have_js_property("videoWidth", 160, timeout=30_000)
    bar, film = page.locator(".moments").bounding_box(), page.locator(".answer video").bounding_box()
    assert bar["y"] >= film["y"] + film["height"]
    best = page.locator(".moments .best").bounding_box()
    assert (best["x"] - bar["x"]) / bar["width"] == pytest.approx(
        answer["moments"][0]["start"] / state["seconds"], abs=0.01
    )
    page.locator(".moments").click(position={"x": bar["width"] / 2, "y": 5})
    half = page.locator(".answer video").evaluate("(film) => film.currentTime / film.duration")
    assert half == pytest.approx(0.5, abs=0.02)


def test_a_second_question_waits_and_is_told_so(asking, served):
    address, desk = served
    call(address, "videos")
    first = ask(address, video="0/a <b>name & 🙂.mp4", sentences=["who?"])["question"]
    page = asking()
    page.locator("#chosen").select_option("0/a <b>name & 🙂.mp4")
    page.locator("#sentences").fill("what?")
    page.locator("#ask").click()
    expect(page.locator("#status")).to_have_text("Waiting: 1 question comes first.")
    assert page.locator("#ask").is_disabled()
    assert json.loads(call(address, f"questions/{first}")[1]) == {"ahead": 0}
    with at_work(desk):
        expect(page.locator(".answer")).to_have_count(2, timeout=60_000)  # the first was another page's
        expect(page.locator("#ask")).to_be_enabled()
    assert "answers" in json.loads(call(address, f"questions/{first}")[1])
    assert page.locator("#ask").is_enabled()


def test_a_file_that_is_no_video_is_said_to_be_none_under_its_own_name_and_the_next_is_answered(asking, served, videos):
    page = asking()
    fault = page.locator("#fault")
    page.locator("#ask").click()
    expect(fault).to_have_text("Say what to look for.")
    page.locator("#sentences").fill("what?")
    page.locator("#ask").click()
    expect(fault).to_have_text("Choose a video first.")
    page.locator("#file").set_input_files(videos / "broken.mp4")
    page.locator("#ask").click()
    with at_work(served[1]):
        expect(fault).to_contain_text("broken.mp4 is not a video that can be opened", timeout=60_000)
        assert "/uploads/" not in fault.text_content()
        page.locator("#chosen").select_option(index=1)
        assert page.locator("#file").input_value() == ""
        page.locator("#ask").click()
        expect(page.locator(".answer")).to_have_count(1, timeout=60_000)
    assert fault.text_content() == ""


def test_nothing_is_wider_than_the_screen_and_every_text_stands_out(asking, served):
    page = asking()
    page.locator("#chosen").select_option(index=1)
    page.locator("#sentences").fill("x" * 300)
    page.locator("#ask").click()
    with at_work(served[1]):
        expect(page.locator(".answer")).to_have_count(1, timeout=60_000)
    page.evaluate("fault.textContent = 'y'.repeat(300)")
    for width in (360, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CONTRASTS) == []


def test_without_the_token_or_under_another_name_nothing_is_had(served):
    address, _ = served
    token = urlsplit(address).path.strip("/")
    for path in ("/", f"/{token[:-1]}/", f"/{token}x/", f"/x/{token}/", f"/?token={token}", "//"):
        response, content = call(address, path)
        assert response.status == 403, path
        assert token.encode() not in content
    for host in ("example.org", f"127.0.0.1.example.org:{urlsplit(address).port}", ""):
        assert call(address, Host=host)[0].status == 400, host
    response, content = call(address, Host="localhost")
    assert response.status == 200
    assert b"Ask a video" in content
    policy = response.getheader("content-security-policy")
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")
    assert "unsafe" not in policy
    assert response.getheader("referrer-policy") == "no-referrer"
    assert response.getheader("access-control-allow-origin") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("./\\%2e0aé\0") | st.characters(codec="utf-8"), max_size=12))
def test_no_text_names_a_file_that_is_not_offered(served, text):
    address, desk = served
    offered = ("0/a <b>name & 🙂.mp4", "broken.mp4")
    if text not in offered:
        question = json.dumps({"video": text, "sentences": ["what?"]}).encode()
        assert call(address, "questions", "POST", question)[0].status == 404
    assert len(desk.questions) == desk.finished


@pytest.mark.parametrize(
    "path",
    [
        *["questions/999", "questions/1/../2", "questions/x", "questions/-1/1.mp4", "questions/1/99.mp4"],
        *["questions/1/..%2f..%2fx.mp4", "questions/1/%2e%2e/predictions.jsonl", "../page.js", "%2e%2e/desk.py"],
        *["page.html", "desk.py", "videos/broken.mp4", "uploads/1", "videos/../../secret.mp4"],
    ],
)
def test_no_path_leads_out_of_what_the_page_has(served, path):
    assert call(served[0], path)[0].status in (403, 404, 405)


@pytest.mark.parametrize(
    "question",
    [
        *[{"video": "../secret.mp4"}, {"video": "notes.txt"}, {"video": "/etc/passwd"}, {"video": ["broken.mp4"]}],
        *[{"upload": "../answers/1/1.mp4", "name": "x"}, {"upload": 1}, {"upload": None, "name": "x"}, {}],
    ],
    ids=str,
)
def test_a_question_about_anything_else_is_none(served, question):
    call(served[0], "videos")
    body = json.dumps({**question, "sentences": ["what?"]}).encode()
    assert call(served[0], "questions", "POST", body)[0].status == 404
    assert call(served[0], "questions", "POST", b"[" * 9999)[0].status == 404


def test_what_cannot_be_answered_is_refused_when_it_is_asked(predictor, videos, tmp_path):
    """Half a character, in a sentence or in a name, is a fault that is told as any other."""
    desk = Desk(predictor, tmp_path / "answers")
    with site_of(desk, videos, tmp_path) as address:
        for sentences in ([], [" "], ["what?"] * (SENTENCES + 1), ["\ud83d"]):
            assert "error" in ask(address, upload=1, name="\ud83d", sentences=sentences)
        for number in range(WAITING + 1):
            assert ask(address, upload=1, name="\ud83d", sentences=["what?"]) == {"question": number + 1}
        assert ask(address, upload=1, name="x", sentences=["what?"])["error"].startswith("8 questions wait already")
        with at_work(desk):
            pass
        assert json.loads(call(address, "questions/1")[1])["error"].startswith("\ud83d is not a file")


def test_an_upload_that_is_too_large_is_refused_and_not_kept(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "UPLOAD_BYTES", 1000)
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with site_of(Desk(predictor, tmp_path), None, uploads) as address:
        response, content = call(address, "uploads", "POST", b"x" * 1001)
        assert response.status == 400
        assert "too large" in json.loads(content)["error"]
        assert list(uploads.iterdir()) == []
        assert json.loads(call(address, "uploads", "POST", b"x" * 1000)[1]) == {"upload": 2}
        assert [p.name for p in uploads.iterdir()] == ["2"]


def test_a_film_comes_in_the_ranges_that_a_player_asks_for(served):
    address, desk = served
    call(address, "videos")
    number = ask(address, video="0/a <b>name & 🙂.mp4", sentences=["what?"])["question"]
    with at_work(desk):
        pass
    whole = call(address, f"questions/{number}/1.mp4")[1]
    response, part = call(address, f"questions/{number}/1.mp4", Range="bytes=100-199")
    assert response.status == 206
    assert response.getheader("content-type") == "video/mp4"
    assert part == whole[100:200]


def test_the_command_serves_until_it_is_interrupted_and_leaves_nothing(checkpoint, tmp_path):
    program = [sys.executable, "-m", "stvg", "predict", "--serve", "--checkpoint", str(checkpoint), "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as ran:
        address = re.search(r"http://127\.0\.0\.1:\d+/\S+/", ran.stdout.readline())[0]
        assert call(address, "videos")[0].status == 200
        ran.send_signal(signal.SIGTERM)
        assert ran.wait(30) == 128 + signal.SIGTERM
        assert "Traceback" not in ran.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x.mp4", "what?", "--serve"], "--serve does not go with VIDEO"),
        (["--serve", "--no-video"], "--serve does not go with --no-video"),
        (["--serve", "--out", "here"], "--serve does not go with --out"),
        (["x.mp4", "what?", "--port", "0"], "--port belongs to --serve. Add --serve, or leave --port out"),
        (["--serve", "--videos", "nowhere"], "nowhere is not a folder of videos"),
        (["--serve", "--weights-seed", "7"], "other features than this head was trained on"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_do_not_go_together_are_refused(stvg, checkpoint, words, says):
    ran = stvg("predict", *words, "--checkpoint", checkpoint)
    assert ran.code in (1, 2)
    assert says in ran.err


def test_a_port_that_is_taken_and_a_library_that_is_missing_are_said_to_be(stvg, checkpoint, served, monkeypatch):
    port = urlsplit(served[0]).port
    ran = stvg("predict", "--serve", "--checkpoint", checkpoint, "--port", port)
    assert ran.code == 1
    assert f"port {port} cannot be had" in ran.err
    monkeypatch.setitem(sys.modules, "stvg.evaluate.serve.site", None)
    ran = stvg("predict", "--serve", "--checkpoint", checkpoint)
    assert ran.code == 1
    assert "pip install '.[serve]'" in ran.err
