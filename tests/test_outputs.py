"""Where results go: looked at before the work, made where it is missing, and named when it cannot be written."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

from stvg.atomic import open_atomic, write_atomic
from stvg.errors import UsageError, WriteError
from stvg.options import OutCache, OutFile, OutFolder
from stvg.outputs import naming_write_errors, writable_file, writable_folder

from .conftest import left_out

HEAD = ("--checkpoint", "gone.safetensors")
DATA = ("--dataset", "vidstg", "--annotations", "gone")
FILES = {
    "evaluate --out": ("evaluate", *HEAD, "--cache", "gone", "--out"),
    "evaluate --json": ("evaluate", "--predictions", "gone", *DATA, "--json"),
    "evaluate --export challenge": ("evaluate", *HEAD, "--cache", "gone", "--export", "challenge"),
    "evaluate --export coco": ("evaluate", *HEAD, "--cache", "gone", "--export", "coco"),
    "evaluate --export csv": ("evaluate", *HEAD, "--cache", "gone", "--export", "csv"),
    "report --out": ("report", *HEAD, "--cache", "gone", "--out"),
    "dataset show --out": ("dataset", "show", *DATA, "--videos", "gone", "--out"),
    "extract --log": ("extract", *DATA, "--backbone", "tiny", "--out", "s3://bucket/gone", "--log"),
    "train-head --log": ("train-head", "--cache", "gone", "--log"),
}
FOLDERS = {
    "demo --out": ("demo", "--quick", "--out"),
    "dataset make OUT": ("dataset", "make"),
    "dataset new --out": ("dataset", "new", "gone", "--out"),
    "dataset import --out": ("dataset", "import", "gone", "--format", "mot", "--videos", "gone", "--out"),
    "dataset export --out": ("dataset", "export", *DATA, "--format", "mot", "--out"),
    "extract --out": ("extract", *DATA, "--backbone", "tiny", "--out"),
    "cache convert TARGET": ("cache", "convert", "gone", "--store", "hdf5"),
    "cache merge OUT": ("cache", "merge"),
    "cache export OUT": ("cache", "export", "gone"),
    "cache import --out": ("cache", "import", "gone", "--name", "mine", *DATA, "--stride", "8", "--out"),
    "weights import --out": ("weights", "import", "gone", "--out"),
    "train-head --out": ("train-head", "--cache", "gone", "--out"),
    "ablate --out": ("ablate", "--cache", "gone", "--out"),
    "predict --out": ("predict", "gone.mp4", "what?", *HEAD, "--out"),
    "predict --cache": ("predict", "gone.mp4", "what?", *HEAD, "--cache"),
}
"""Every place that a command writes to, as the words before it. Whatever else a command needs is missing: a command that
looks at the place first does not come to say so."""
AFTER = {"cache merge OUT": ("gone",)}
OUTPUTS = [*FILES, *FOLDERS]


def words_of(name: str, place: Path) -> tuple[object, ...]:
    return (*(FILES | FOLDERS)[name], place, *AFTER.get(name, ()))


def every_parameter(group: click.Group, path: str = "") -> list[tuple[str, click.Parameter]]:
    found: list[tuple[str, click.Parameter]] = []
    for name, command in group.commands.items():
        here = f"{path}{name} "
        if isinstance(command, click.Group):
            found += every_parameter(command, here)
        else:
            found += [
                (here + (p.opts[0] if isinstance(p, click.Option) else p.make_metavar(None)), p) for p in command.params
            ]  # type: ignore[arg-type]
    return found


def test_the_table_here_has_every_output_of_every_command():
    from stvg.cli import cli

    def types(parameter: click.Parameter) -> list[click.ParamType]:
        return list(parameter.type.types) if isinstance(parameter.type, click.Tuple) else [parameter.type]

    writing = {
        name for name, p in every_parameter(cli) if any(isinstance(t, OutCache | OutFile | OutFolder) for t in types(p))
    }
    listed = {re.sub("(--export) .*", r"\1", name) for name in OUTPUTS}
    assert writing == listed - {"predict --cache"}  # where features are only kept if they are not there


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, in which no test may leave anything behind without saying so."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def refused(ran, place) -> None:
    assert ran.code == 1, ran.err
    assert f"UsageError: {place} cannot be written" in ran.err
    assert "nothing was read or written" in ran.err
    assert ran.err.count("cannot be written") == 1


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_in_the_way_is_said_before_the_work(stvg, here, name):
    Path("file").write_text("kept")
    refused(stvg(*words_of(name, Path("file", "under", "it"))), "file/under/it")
    if name in FOLDERS:
        refused(stvg(*words_of(name, Path("file"))), "file")
    else:
        Path("folder").mkdir()
        refused(stvg(*words_of(name, Path("folder"))), "folder")
        Path("folder").rmdir()
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [("file", "kept")]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_name_that_is_too_long_is_said_before_the_work(stvg, here, name):
    long = Path("new", "n" * 300)
    refused(stvg(*words_of(name, long)), long)
    assert not list(here.iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_disk_that_takes_nothing_is_said_before_the_work(stvg, here, monkeypatch, name, number):
    def unwritable(self: Path, mode: str = "r", *args: object, **options: object):
        if "x" in mode:
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, mode, *args, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", unwritable)
    ran = stvg(*words_of(name, Path("new", "place")))
    refused(ran, "new/place")
    assert os.strerror(number) in ran.err
    assert ".tmp" not in ran.err
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_refused_command_leaves_nothing_where_it_would_have_written(stvg, here, name):
    place = Path("new", "folders", "place")  # a log is written from the first line on
    writes = name in ("demo --out", "dataset make OUT") or name.endswith("--log")
    ran = stvg(*words_of(name, place)) if not writes else None
    if ran is not None:
        assert ran.code in (1, 2), ran
        assert "cannot be written" not in ran.err
        assert not list(here.iterdir())


def test_a_place_is_looked_at_without_being_touched(here):
    Path("kept").write_text("content")
    assert writable_file(Path("kept")) == Path("kept")
    assert writable_file(Path("new", "folder", "file")) == Path("new/folder/file")
    assert writable_folder(Path("other", "folder")) == Path("other/folder")
    assert writable_folder(here) == here
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [("kept", "content")]


def test_a_link_to_nothing_is_no_folder(here):
    Path("link").symlink_to("nowhere")
    for look, place in ((writable_folder, Path("link")), (writable_file, Path("link", "file"))):
        with pytest.raises(UsageError, match="cannot be written") as refused:
            look(place)
        assert "a broken link" in refused.value.facts["found"]


def test_folders_above_a_file_are_made_when_it_is_written(here):
    write_atomic(Path("a", "b", "file"), "text")
    with open_atomic(Path("c", "d", "file"), text=True) as file:
        file.write("text")
    assert Path("a/b/file").read_text() == Path("c/d/file").read_text() == "text"


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(here):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(writable_file(Path("pipe")), "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    write_atomic(writable_file(Path("/dev/null")), "gone")
    assert Path("/dev/null").is_char_device()
    assert [p.name for p in here.iterdir()] == ["pipe"]


def test_what_the_system_says_of_a_disk_is_named_and_other_faults_are_not_hidden(here):
    with pytest.raises(WriteError, match="here cannot be written") as said, naming_write_errors("here"):
        raise OSError(errno.ENOSPC, "No space left on device", "here/.tmp-1")
    assert said.value.facts["found"] == "No space left on device"
    with pytest.raises(FileNotFoundError), naming_write_errors("here"):  # of what was read
        open("elsewhere")  # noqa: SIM115
    with pytest.raises(ConnectionResetError), naming_write_errors("here"):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_results_go_into_folders_that_are_made(stvg, checkpoint, tiny_cache):
    words = ["evaluate", "--checkpoint", checkpoint, "--cache", tiny_cache, "--device", "cpu"]
    exports = ["--export", "csv", "c/new/s.csv", "--export", "coco", "d/new/t.json"]
    ran = stvg(*words, "--out", "a/new/p.jsonl", "--json", "b/new/s.json", *exports)
    assert ran.code == 0, ran.err
    for name in ("a/new/p.jsonl", "b/new/s.json", "c/new/s.csv", "d/new/t.json"):
        assert Path(name).stat().st_size
    ran = stvg("report", "--checkpoint", checkpoint, "--cache", tiny_cache, "--device", "cpu", "--out", "e/new/r.html")
    assert ran.code == 0, ran.err
    assert Path("e/new/r.html").stat().st_size


def test_one_file_is_not_named_for_two_things(stvg, checkpoint, tiny_cache):
    words = ["evaluate", "--checkpoint", checkpoint, "--cache", tiny_cache, "--json", "s.json"]
    ran = stvg(*words, "--export", "csv", "../here/s.json")
    assert ran.code == 1
    assert "is named for two results" in ran.err
    Path("theirs.jsonl").write_text("kept")
    ran = stvg("evaluate", "--predictions", "theirs.jsonl", *DATA, "--json", "theirs.jsonl")
    assert ran.code == 1
    assert "is read by this command" in ran.err
    assert Path("theirs.jsonl").read_text() == "kept"


def full_from(monkeypatch, suffix: str, count: int) -> None:
    """The disk is full when the ``count``-th file whose name ends so is to get its name."""
    seen, replace = [0], os.replace

    def replaced(source: object, target: object) -> None:
        seen[0] += str(target).endswith(suffix)
        if seen[0] >= count and str(target).endswith(suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replaced)


def test_scores_are_printed_though_the_disk_is_full(stvg, checkpoint, tiny_cache, monkeypatch):
    full_from(monkeypatch, "s.json", 1)
    words = ["evaluate", "--checkpoint", checkpoint, "--cache", tiny_cache, "--device", "cpu", "--json", "s.json"]
    ran = stvg(*words)
    assert ran.code == 1
    assert "declarative" in ran.out
    assert "WriteError: s.json cannot be written" in ran.err
    assert "No space left on device" in ran.err


def test_a_full_disk_ends_a_training_that_goes_on_from_its_last_checkpoint(stvg, tiny_cache, monkeypatch):
    settings = ["train.epochs=4", "train.batch_size=8", "model.ffn=32"]
    words = ["train-head", "--cache", tiny_cache, "--preset", "tiny", "--val-split", "none", "--device", "cpu"]
    words += [word for setting in settings for word in ("--set", setting)]
    with monkeypatch.context() as patched:
        full_from(patched, "last.safetensors", 3)
        ran = stvg(*words, "--out", "run")
    assert ran.code == 1
    assert "WriteError: run cannot be written" in ran.err
    assert "goes on from its last checkpoint" in ran.err
    again = stvg(*words, "--out", "run")
    assert again.code == 0, again.err
    assert "going on at step" in again.out


def test_a_fault_of_a_disk_is_one_message_whatever_the_command_did(stvg, tiny_cache, monkeypatch):
    def failing(error: OSError):
        def summarise(_: object) -> None:
            raise error

        monkeypatch.setattr("stvg.cache.upkeep.summary.summarise", summarise)
        return stvg("cache", "info", tiny_cache)

    for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE):
        ran = failing(OSError(number, os.strerror(number), "some/file"))
        assert ran.code == 1
        assert ran.err.startswith(f"stvg: some/file: {os.strerror(number)}\n")
    assert failing(OSError(errno.ENOSPC, "No space left on device")).code == 1
    with pytest.raises(OSError, match="a fault of the program"):
        failing(OSError("a fault of the program"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the device has no memory left"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine has no memory left"),
        (MemoryError("Unable to allocate 9 TiB"), "the machine has no memory left"),
    ],
)
def test_no_memory_is_one_message_that_says_what_to_make_smaller(stvg, tiny_cache, monkeypatch, error, said):
    def summarise(_: object) -> None:
        raise error

    monkeypatch.setattr("stvg.cache.upkeep.summary.summarise", summarise)
    ran = stvg("cache", "info", tiny_cache)
    assert ran.code == 1
    assert ran.err.startswith(f"stvg: {said}\n  found      {error}\n")
    assert "train.batch_size" in ran.err
    monkeypatch.setattr("stvg.cache.upkeep.summary.summarise", lambda _: (_ for _ in ()).throw(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        stvg("cache", "info", tiny_cache)


def info_with_output_to(stdout: int, cache: Path) -> tuple[int, str]:
    words = [sys.executable, "-m", "stvg", "cache", "info", cache]
    done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


def test_a_reader_that_has_gone_ends_a_command_quietly(tiny_cache):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert info_with_output_to(writing, tiny_cache) == (1, "")
    finally:
        os.close(writing)


def test_an_output_to_a_full_disk_is_one_message(tiny_cache):
    if not Path("/dev/full").exists():
        raise left_out("this system has no /dev/full, a disk without room")
    with open("/dev/full", "w") as full:
        code, said = info_with_output_to(full.fileno(), tiny_cache)
    assert code == 1
    assert said.startswith(
        "stvg: WriteError: standard output cannot be written\n  found      No space left on device\n"
    )
    assert "Traceback" not in said


def test_missing_videos_are_named_shortly_before_the_summary(stvg, synthetic):
    Path("empty").mkdir()
    words = ["extract", *DATA[:2], "--annotations", synthetic, "--split", "train", "--backbone", "tiny"]
    some = next(synthetic.rglob("*.mp4"))
    (Path("empty") / some.parent.name).mkdir()
    (Path("empty") / some.parent.name / some.name).symlink_to(some)
    ran = stvg(*words, "--videos", "empty", "--resolution", 64, "--out", "c", "--device", "cpu")
    listed = [json.loads(line)["video_id"] for line in Path("c/skipped.jsonl").read_text().splitlines()]
    assert ran.code == 3, ran.err
    assert len(listed) >= 5
    assert ran.err.count("video skipped: video") <= 5
    assert "c/skipped.jsonl" in ran.err
    assert ran.out.splitlines()[-1].startswith("extract: ")
    assert "skipped" in ran.out.splitlines()[-1]
