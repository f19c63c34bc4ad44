"""Texts that mean harm, in every field of a user's data, through the whole chain: shown as text, kept in their folder."""

from __future__ import annotations

import csv
import io
import json
import shutil
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stvg.extract.video.decode import probe
from stvg.untrusted import BIDI, FORMULA

SENTENCES = (
    "<script>alert(1)</script> ../../x",
    '=HYPERLINK("http://x";"y") & $x_1^2$ % # {braces} ~',
    "א ילד\u202e רוכב\u2066 \x1b[31m\x1b]0;title\x07 🙂",
    "| a | b |\\end{tabular}\\input{/etc/passwd}",
)
KINDS = ("<img src=x onerror=alert(2)>", "=1+1", "\x1b[2J\u202egnihton", "|\\undefined_&%")
VIDEOS = ("../../../escape", "..", "a/b\\c", "\x1b[31m\u202e'\"<b>🙂 " + "x" * 300)
FILES = ("<script>alert(3)</script>.mp4".replace("/", ""), "..mp4", "-rf '\"; $(x) `y`.mp4", "🙂\u202e\x1b[31m\n=1.mp4")
IDS = ("../id", "<b>", "=2", "\x1b[31m")


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture(scope="module")
def home(synthetic, tmp_path_factory) -> Path:
    """Hostile data of one's own, in ``data``: every field a text, and every text bad."""
    home = tmp_path_factory.mktemp("hostile") / "some" / "way" / "down" / "home"
    videos = home / "data" / "videos"
    videos.mkdir(parents=True)
    (home / "out").mkdir()
    known, samples = {}, []
    for file, video in zip(sorted(synthetic.rglob("*.mp4")), range(len(VIDEOS)), strict=False):
        shutil.copy(file, videos / FILES[video])
        facts = probe(file)
        size = {"width": facts.width, "height": facts.height, "fps": facts.fps, "frame_count": facts.frames}
        known[VIDEOS[video]] = {"file": FILES[video], **size}
        boxes = {"0": [10, 10, 60, 60], "20": [20, 10, 60, 60]}
        fields = {"id": IDS[video], "video": VIDEOS[video], "type": KINDS[video], "target": SENTENCES[video]}
        moment = {"moment": [0, 21], "boxes": boxes, "interpolate": True}
        samples.append({**fields, "sentence": SENTENCES[video], **moment})
    for split in ("train", "test"):
        (home / "data" / f"{split}.json").write_text(json.dumps({"videos": known, "samples": samples}))
    return home


@pytest.fixture(scope="module")
def chain(home):
    """Run one command after the other; what each leaves behind may lie in its own folder or file alone."""
    from click.testing import CliRunner

    from stvg.cli import cli

    top = home.parents[3]
    around = listing(top)

    def run(*words: object, may_write: tuple[str, ...] = ()) -> str:
        nonlocal around
        result = CliRunner().invoke(cli, [str(w) for w in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        now = listing(top)
        allowed = [home / name for name in may_write]
        escaped = {p for p in now - around if not any(p == a or a in p.parents for a in allowed)}
        assert not escaped, words
        around = now
        return result.output

    return run


@pytest.fixture(scope="module")
def said(home, chain) -> dict[str, str]:
    """What every command of the chain said, by name."""
    data, cache, run, out = home / "data", home / "cache", home / "run", home / "out"
    best = run / "last.safetensors"
    own = ("--dataset", "json", "--annotations", data)
    found = {"check": chain("dataset", "check", *own, "--videos", data / "videos")}
    tiny = ("--backbone", "tiny", "--text-encoder", "tiny", "--resolution", 64)
    splits = ("--split", "train", "--split", "test")
    found["extract"] = chain("extract", *own, *splits, *tiny, "--out", cache, may_write=("cache", "out"))
    found["info"] = chain("cache", "info", cache)
    found["verify"] = chain("cache", "verify", cache)
    steps = ("--set", "train.epochs=1", "--set", "train.batch_size=4", "--set", "model.max_frames=16")
    found["train"] = chain(
        *("train-head", "--cache", cache, "--preset", "tiny", *steps, "--val-split", "none", "--out", run),
        may_write=("run", "out"),
    )
    scored = ("evaluate", "--checkpoint", best, "--cache", cache)
    for style in ("terminal", "markdown", "csv", "latex"):
        found[style] = chain(*scored, "--style", style, "--json", out / f"{style}.json", may_write=("out",))
    exports = [word for kind in ("challenge", "coco", "csv") for word in ("--export", kind, out / f"{kind}.txt")]
    found["exports"] = chain(*scored, *exports, "--out", out / "tubes.jsonl", may_write=("out",))
    found["compare"] = chain("evaluate", "--compare", out / "terminal.json", out / "csv.json")
    page = ("--videos", data / "videos", "--out", out / "report.html")
    found["report"] = chain("report", "--checkpoint", best, "--cache", cache, *page, may_write=("out",))
    asked = ("predict", data / "videos" / FILES[3], *SENTENCES, "--checkpoint", best)
    found["predict"] = chain(*asked, "--out", out / "grounding", may_write=("out",))
    return found


def test_no_command_lets_a_text_steer_the_terminal(said):
    steering = {
        command: {c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"} | BIDI & set(text)
        for command, text in said.items()
    }
    assert {command: found for command, found in steering.items() if found} == {}


def test_texts_come_back_from_every_file_as_they_were(said, home):
    out = home / "out"
    lines = [json.loads(line) for line in (out / "tubes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["sentence"] for line in lines} == set(SENTENCES)
    coco = json.loads((out / "coco.txt").read_text(encoding="utf-8"))
    assert {a["caption"] for a in coco["annotations"]} == set(SENTENCES)
    assert {v["file_name"] for v in coco["videos"]} == set(FILES)
    challenge = json.loads((out / "challenge.txt").read_text(encoding="utf-8"))
    assert set(challenge) <= set(VIDEOS)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_no_cell_of_a_spreadsheet_is_a_formula(said, home):
    exported = list(csv.reader(io.StringIO((home / "out" / "csv.txt").read_text(encoding="utf-8"))))
    printed = list(csv.reader(io.StringIO(said["csv"])))
    assert len({len(row) for row in exported}) == 1
    for row in exported + printed:
        texts = [cell for cell in row if not is_number(cell)]
        assert not [cell for cell in texts if cell.startswith(tuple(FORMULA))], row


def test_a_table_in_markdown_or_latex_has_as_many_columns_as_its_head(said):
    rows = [line for line in said["markdown"].splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "<img" not in said["markdown"]
    assert "\\undefined" not in said["latex"]
    assert "\\input" not in said["latex"]


class Elements(HTMLParser):
    """What a browser would make of a page: the names of its elements, its attributes, and its scripts but for data."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts = ""
        self.running = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.running = tag == "script" and dict(attrs).get("type") != "application/json"

    def handle_data(self, data: str) -> None:
        self.scripts += data if self.running else ""


def test_no_text_becomes_an_element_an_attribute_or_a_script_of_the_report(said, home):
    page = Elements()
    page.feed((home / "out" / "report.html").read_text(encoding="utf-8"))
    assert "alert(" not in page.scripts
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "img" not in page.names


def test_films_and_boxes_have_names_of_ours(said, home):
    names = [p.name for p in sorted((home / "out" / "grounding").iterdir())]
    assert names == ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "predictions.jsonl"]


def test_an_error_that_repeats_a_text_does_not_let_it_steer_the_terminal(stvg, home, tmp_path):
    broken = json.loads((home / "data" / "test.json").read_text(encoding="utf-8"))
    broken["samples"][0]["video"] = "\x1b[31m\u202egone"
    (tmp_path / "test.json").write_text(json.dumps(broken))
    ran = stvg("extract", "--dataset", "json", "--annotations", tmp_path, "--backbone", "tiny", "--out", tmp_path / "c")
    assert ran.code == 1
    assert "gone" in ran.err
    assert not {"\x1b", "\u202e"} & set(ran.err)
