"""The documents keep their word: every command they show runs, every option and setting they name exists, every link leads
somewhere.

A command is run as it stands, in a folder that holds small files under the names the documents use. What would take a
GPU or published weights is exchanged first, by `STAND_INS` and nothing else.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import torch
import yaml
from safetensors.torch import save_file

import stvg
from stvg.cli import cli
from stvg.errors import StvgError
from stvg.evaluate.demo.run import Size
from stvg.evaluate.evaluation import load_head
from stvg.heads.settings import load_experiment

from .extract import tool_exports
from .extract.folders import hf_folder, text_folder
from .heads.test_import_weights import fill, mdetr

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BENCHMARKS = ROOT / "tests/benchmarks"

TINY = "--backbone tiny --resolution 64"
SMALL = "--preset tiny --set train.epochs=1 --set model.max_frames=100"
STAND_INS = {
    # Encoders and heads of published sizes → tiny ones, for one epoch.
    "--backbone-weights resnet101.safetensors --text-weights roberta-base/": TINY,
    "--backbone-weights weights/mdetr/backbone.safetensors "
    "--text-weights weights/mdetr/roberta.safetensors --tokenizer roberta-base/": TINY,
    "--backbone resnet101,timm:convnext_tiny --backbone-weights r101.pth,convnext.safetensors": (
        "--backbone tiny,timm:test_convnext --backbone-weights ,random --text-encoder tiny --resolution 64"
    ),
    "--cache cache/two --out runs/convnext --set model.memory_level=convnexttiny-s32": (
        "--cache cache/vidstg --out runs/convnext --set model.memory_level=c5"
    ),
    "--init weights/mdetr/head.safetensors": "--init weights/tiny/head.safetensors",
    "train-head --cache": f"train-head {SMALL} --cache",
    "--set train.epochs=1000": "--set train.epochs=1",
    # Fifteen trained heads → the table that trains none; tests/evaluate/test_ablation.py trains cells.
    "--table III --table V": "--table VII",
    "--grid heads.yaml --preset tiny --seeds 3": "--table VII",
    # Packages with weights, which are not always installed.
    "--encoders lite0+minilm": "--encoders tiny,tiny+tiny",
    # What the document leaves out.
    "extract --dataset vidstg …": "extract --dataset vidstg --annotations vidstg --videos vidor/video --out cache/vidstg",
}
"""Words in a documented command → words that run here."""


class Shown(NamedTuple):
    """Something a document shows, and where."""

    where: str
    text: str


def fenced(document: Path) -> Iterator[Shown]:
    """Every line of the fenced blocks without a language, continued lines as one, comments cut off."""
    inside, language, pending = False, "", ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            inside, language = not inside, line[3:].strip()
        elif inside and not language:
            pending += line.removesuffix("\\") + " "
            if not line.endswith("\\"):
                yield Shown(f"{document.name}:{number}", " ".join(re.sub(r"(^|\s)#.*", "", pending).split()))
                pending = ""


def spans(document: Path) -> Iterator[Shown]:
    """Every code span outside of fenced blocks, on one line whatever the text's width."""
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    for found in re.finditer(r"`([^`]+)`", prose):
        yield Shown(f"{document.name}:{prose.count(chr(10), 0, found.start()) + 1}", " ".join(found[1].split()))


def is_command(text: str) -> bool:
    return bool(re.match(r"(uv run (--no-dev )?)?stvg |torchrun .*-m stvg ", text))


def shown_commands() -> dict[str, str]:
    """Every different command of the documents, and where it is first shown."""
    found: dict[str, str] = {}
    for where, text in (shown for document in DOCUMENTS for shown in fenced(document)):
        if is_command(text):
            found.setdefault(re.sub("^uv run (--no-dev )?", "", text), where)
    return found


COMMANDS = shown_commands()
MADE_BY = (
    f"train-head --cache cache/vidstg --out runs/fsm {SMALL}",
    "evaluate --checkpoint runs/fsm/best.safetensors --cache cache/vidstg --out tubes.jsonl --json fsm.json",
    "dataset import cvat --format cvat --videos videos --sentences sentences.csv --out own",
    f"extract --dataset json --annotations own --videos videos --out cache/own {TINY}",
    f"train-head --cache cache/own --out runs/own {SMALL}",
)
"""What makes the runs, the predictions, the scores and the annotations that commands read."""

OWN_DATA = (
    (tool_exports.write_cvat, "cvat"),
    (tool_exports.write_mot, "mot"),
    (tool_exports.write_label_studio, "export.json"),
    (tool_exports.write_coco, "tracks.json"),
    (tool_exports.write_box_table, "boxes.csv"),
)
"""How other tools export annotations of the videos in ``videos``."""


def stood_in(command: str) -> list[str]:
    """The words that are run for a command."""
    text = f" {command} "
    for documented, runs in STAND_INS.items():
        text = text.replace(f" {documented} ", f" {runs} ")
    return shlex.split(text)


@pytest.fixture(scope="module")
def desk(synthetic: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files under every name that a documented command reads."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(synthetic / "annotations", desk / "vidstg/annotations")
    shutil.copytree(synthetic / "vidor", desk / "vidor")
    shutil.copy(min(synthetic.glob("vidor/video/*/*.mp4")), desk / "street.mp4")
    (desk / "clips").mkdir()
    shutil.copy(desk / "street.mp4", desk / "clips/a.mp4")
    (desk / "asked.csv").write_text("video,sentence\nstreet.mp4,a dog runs\n")
    for name in ("cache/vidstg", "hc1", "shard1", "shard2", "shard3"):
        shutil.copytree(tiny_cache, desk / name)
    torch.save({"model": fill(mdetr())}, desk / "pretrained_resnet101_checkpoint.pth")
    (desk / "weights/tiny").mkdir(parents=True)
    for document in DOCUMENTS:
        for name, code in re.findall(r"^```\w+\n# (\w+\.\w+)\n(.*?)^```", document.read_text("utf-8"), re.M | re.S):
            (desk / name).write_text(code, encoding="utf-8")
    (desk / "videos").mkdir()
    drawn = tool_exports.drawn_videos(desk / "videos")
    tool_exports.write_sentences(desk / "sentences.csv", drawn)
    for write, name in OWN_DATA:
        write(desk / name, drawn)
    hf_folder(desk / "dinov2-small", "dinov2")
    text_folder(desk / "minilm", "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        for words in MADE_BY:
            cli.main(shlex.split(words), standalone_mode=False)
    shutil.copy(desk / "fsm.json", desk / "baseline.json")
    shutil.copy(desk / "runs/fsm/last.safetensors", desk / "last.safetensors")
    head = load_head(desk / "last.safetensors", torch.device("cpu"))
    save_file(head.model.head.state_dict(), desk / "weights/tiny/head.safetensors")
    return desk


def laid_out(desk: Path, here: Path, words: list[str]) -> Path:
    """A folder with everything of the desk: what the words name, and where runs are written, as copies; else links."""
    named = {"runs", *(part for word in words for part in re.split("[/=,:]", word))}
    here.mkdir()
    for path in desk.iterdir():
        if path.name not in named:
            (here / path.name).symlink_to(path)
        else:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, here / path.name)
    return here


def written_by(words: list[str]) -> list[str]:
    """What a command says it leaves behind."""
    return [value for option, value in pairwise(words) if option in ("--out", "--json") and "cache" not in words]


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo draws its few videos in this process: to start others takes longer."""
    monkeypatch.setattr("stvg.evaluate.demo.run.os.cpu_count", lambda: 1)


@pytest.mark.parametrize("command", COMMANDS, ids=list(COMMANDS.values()))
def test_every_command_shown_runs_and_leaves_what_it_names(
    command: str, desk: Path, stvg: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = stood_in(command)
    monkeypatch.chdir(laid_out(desk, tmp_path / "desk", words))
    for name in ("FULL", "QUICK"):
        size = Size(train=4, test=2, settings=("train.epochs=1", "train.lr_drop=1"))
        monkeypatch.setattr(f"stvg.evaluate.demo.run.{name}", size)
    left = written_by(words)
    for path in map(Path, left):  # what was there before proves nothing
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    code, said = run_words(words, stvg)
    assert code == 0, f"{COMMANDS[command]}: {shlex.join(words)}\n{said}"
    for path in left:
        assert Path(path).exists(), f"{COMMANDS[command]}: {shlex.join(words)} left no {path}"


def run_words(words: list[str], stvg: Callable[..., Any]) -> tuple[int, str]:
    """Run a command in this process, or torchrun in its own; its exit status and what it said."""
    if words[0] == "stvg":
        ran = stvg(*words[1:])
        return ran.code, ran.out + ran.err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
    done = subprocess.run(torchrun, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout + done.stderr


def test_every_line_that_names_a_command_is_one_and_every_stand_in_stands_in() -> None:
    for where, text in (shown for document in DOCUMENTS for shown in fenced(document)):
        assert is_command(text) or not re.search(r"\bstvg [a-z-]+ ", text), f"{where}: {text}"
    used = " ".join(f" {command} " for command in COMMANDS)
    assert [documented for documented in STAND_INS if f" {documented} " not in used] == []


# --- what is named without being run ----------------------------------------------------------------------------------


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words after ``stvg`` begin with, and the words that follow its name."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    return {name for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)} | {
        "--help"
    }


def every_command(group: click.Group = cli) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from every_command(command)


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


SPANS = [shown for document in DOCUMENTS for shown in spans(document)]
OF_OTHERS = {
    "--nproc-per-node",
    "--array",
    "--group",
    "--no-dev",
    "--inexact",
    "--extra",
    "--python",
    "--torch-backend",
    "--logdir",
    "--backend-store-uri",
}
"""torchrun's, Slurm's, uv's, pip's, TensorBoard's and MLflow's."""
NO_COMMAND = {"stvg crc32c"}
"""What a user block of HDF5 begins with."""


def benchmarks_shown() -> list[tuple[str, str, set[str]]]:
    """Where a benchmark is shown, its file and the options; ``…`` stands for the benchmark named before it."""
    found, last = [], ""
    for document in DOCUMENTS:
        for where, text in (*fenced(document), *spans(document)):
            if named := re.search(r"tests/benchmarks/(\w+)\.py", text):
                last = named[1]
            elif not text.startswith("… --"):
                continue
            found.append((where, last, options_in(text) - OF_OTHERS))
    return found


def test_every_option_named_belongs_to_the_command_it_is_named_with() -> None:
    anywhere = set().union(OF_OTHERS, *map(options_of, every_command()))
    anywhere |= set().union(*(options_in(file.read_text(encoding="utf-8")) for file in BENCHMARKS.glob("*.py")))
    of_benchmarks = {where for where, _, _ in benchmarks_shown()}
    for where, text in SPANS:
        if where in of_benchmarks and ("benchmarks/" in text or text.startswith("…")):
            continue
        known = anywhere
        if text.startswith("stvg ") and text not in NO_COMMAND:
            command, _ = command_of(text.split()[1:])
            assert command is not cli or text.split()[1].startswith("-"), f"{where}: no command {text}"
            known = options_of(command)
        assert options_in(text) <= known, f"{where}: {text}"


def test_every_setting_named_exists_and_takes_the_value_shown() -> None:
    found = 0
    for where, text in SPANS:
        for name, value in re.findall(r"\b(?!\w+\.(?:py|json)\b)((?:model|loss|train)\.[a-z0-9_.]+)(?:=(\S+))?", text):
            found += 1
            assert any(takes(preset, name, value) for preset in ("paper", "tubedetr", "stcat")), f"{where}: {text}"
    assert found > 10


def takes(preset: str, name: str, value: str) -> bool:
    """Whether a preset has a setting, and takes a value for it if there is one."""
    try:
        attrgetter(name)(load_experiment(preset, [f"{name}={value}"] if value else []))
    except (StvgError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("command", [c for c in every_command() if "Example" in (c.help or "")], ids=lambda c: c.name)
def test_every_example_in_a_help_text_is_understood(command: click.Command) -> None:
    said = (command.help or "").splitlines()
    examples = [line for line in said if is_command(line.strip().removeprefix("Example: "))]
    assert examples
    for example in examples:
        words = shlex.split(example.replace("Example: ", "").partition("stvg ")[2])
        named, rest = command_of(words)
        assert named is command, example
        named.make_context(named.name, rest)


def test_the_commands_that_a_demo_ends_with_run(
    stvg: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "stvg.evaluate.demo.run.QUICK", Size(train=4, test=2, settings=("train.epochs=1", "train.lr_drop=1"))
    )
    ran = stvg("demo", "--quick", "--seed", "1", "--out", tmp_path / "a demo")
    shown = [shlex.split(line)[1:] for line in ran.out.splitlines() if line.startswith("  stvg ")]
    assert [words[0] for words in shown] == ["predict", "predict", "evaluate", "ablate"]
    for words in shown:
        command, rest = command_of(words)
        command.make_context(command.name, rest)
        if "--serve" not in words and "ablate" not in words:  # one never ends, the other takes a minute
            done = stvg(*words)
            assert done.code == 0, done.err
    assert (tmp_path / "a demo/predicted/1.mp4").exists()


@pytest.mark.parametrize("name", sorted({name for _, name, _ in benchmarks_shown()}))
def test_every_benchmark_named_exists_and_knows_the_options_it_is_shown_with(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = BENCHMARKS / f"{name}.py"
    assert file.is_file()
    monkeypatch.syspath_prepend(BENCHMARKS)  # where a script's own folder stands
    monkeypatch.setattr("sys.argv", [str(file), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(file), run_name="__main__")
    known = options_in(capsys.readouterr().out)
    for where, _, options in (shown for shown in benchmarks_shown() if shown[1] == name):
        assert options <= known, f"{where}: {name}.py"


def test_every_link_leads_to_a_file_and_the_readme_to_every_page() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCUMENTS if page.parent.name == "docs" and f"(docs/{page.name})" not in readme] == []


def test_every_message_that_troubleshooting_quotes_is_one_of_the_program() -> None:
    """Between the placeholders, a message stands in the source as it stands in the document."""
    rooms = [p.parent for p in ROOT.glob("*/__init__.py")]
    source = "\n".join(p.read_text("utf-8") for p in [*ROOT.glob("*.py"), *(f for r in rooms for f in r.rglob("*.py"))])
    text = re.sub(r"{[^}]*}", "…", source)
    for line in (ROOT / "docs/troubleshooting.md").read_text("utf-8").splitlines():
        first = line.partition("|")[2].partition("|")[0]
        for quoted in re.findall(r"`([^`]+)`", first):
            parts = [part.strip() for part in quoted.split("…") if part.strip()]
            known = all(part in text for part in parts) or quoted.split()[0] in ("--on-bad-record", "stvg:")
            assert known or hasattr(load_experiment("paper").model, quoted.rpartition(".")[2]), quoted


def test_the_citation_is_of_this_version_and_of_the_paper_the_readme_names() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", stvg.__version__)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(paper["title"] in readme and paper["doi"] in readme for paper in cited["references"])


def test_every_function_a_document_points_to_is_there() -> None:
    pointers = [(where, text.split("::")) for where, text in SPANS if re.fullmatch(r"[\w/]+\.py::[\w.]+", text)]
    assert len(pointers) > 20
    for where, (file, name) in pointers:
        module = import_module(f"stvg.{file.removesuffix('.py').replace('/', '.')}")
        assert attrgetter(name)(module), where
