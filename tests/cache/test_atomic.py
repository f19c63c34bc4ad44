from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stvg import atomic
from stvg.atomic import open_atomic, original_name, publish, sweep, temporary_name, unit_name, write_atomic

names = st.text(st.characters(), min_size=1, max_size=300)


@given(names)
@example(".")
@example("..")
@example("../../etc/passwd")
@example("zarr.json")
@example("__reserved")
@example("~" + "0" * 64)
@example("\ud800 lone")
@example("ü" * 100)
@example("nul\0 slash/ back\\")
def test_a_unit_name_is_one_safe_file_name_and_gives_the_text_back(name):
    unit = unit_name(name)
    assert len(unit.encode()) <= atomic.LONGEST_NAME
    assert not set(unit) & set('/\\\0:*?"<>| ')
    assert unit.isascii()
    assert not unit.startswith((".", "_"))
    assert original_name(unit) in (name, None)
    assert (original_name(unit) is None) == unit.startswith("~")


@given(names, names)
def test_different_texts_have_different_unit_names(a, b):
    assert (unit_name(a) == unit_name(b)) == (a == b)


@given(st.text("abcABC%2E.~_ /", min_size=1, max_size=70))
def test_only_what_unit_name_gives_is_read_back(unit):
    try:
        name = original_name(unit)
    except ValueError:
        return
    assert name is None or unit_name(name) == unit


def test_ordinary_video_ids_stay_readable():
    assert unit_name("4kd0uB2X-_.mp4") == "4kd0uB2X-_.mp4"
    assert unit_name("00000") == "00000"


def test_long_names_are_hashed_apart():
    assert unit_name("a" * 200) == "a" * 200
    assert unit_name("a" * 201) != unit_name("a" * 202)
    assert original_name(unit_name("a" * 201)) is None


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="name"):
        unit_name("")


@pytest.mark.parametrize("data", [b"\x00\xff", "naïve\n", b""])
def test_a_written_file_holds_what_was_given_and_nothing_lies_beside_it(tmp_path, data):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), open_atomic(path, text=True) as file:
        file.writelines(["new", None])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_content_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with open_atomic(path, text=True) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.fixture
def disk_steps(monkeypatch) -> list[str]:
    """What is brought to the disk and what is renamed, in order."""
    steps: list[str] = []
    fsync = os.fsync

    def noted_fsync(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    for name in ("replace", "rename"):
        move = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *paths, move=move: (steps.append("rename"), move(*paths)))
    monkeypatch.setattr(os, "fsync", noted_fsync)
    return steps


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, disk_steps):
    write_atomic(tmp_path / "file", b"x")
    assert disk_steps == ["file", "rename", "folder"]


def test_all_of_a_folder_reaches_the_disk_before_its_name(tmp_path, disk_steps):
    temporary = tmp_path / temporary_name()
    (temporary / "inner").mkdir(parents=True)
    (temporary / "inner" / "a").write_text("a")
    publish(temporary, tmp_path / "unit")
    assert disk_steps == ["file", "folder", "folder", "rename", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_publishing_never_replaces_what_is_there(tmp_path, kind):
    def make(path: Path, text: str) -> Path:
        if kind == "folder":
            path.mkdir()
            (path / "inside").write_text(text)
        else:
            path.write_text(text)
        return path

    publish(make(tmp_path / temporary_name(), "first"), tmp_path / "unit")
    second = make(tmp_path / temporary_name(), "second")
    with pytest.raises(FileExistsError):
        publish(second, tmp_path / "unit")
    kept = tmp_path / "unit" / "inside" if kind == "folder" else tmp_path / "unit"
    assert kept.read_text() == "first"
    assert second.exists()


def test_a_sweep_removes_what_dead_writers_left_and_nothing_else(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from stvg.atomic import temporary_name\n"
        "p = Path(sys.argv[1]) / temporary_name(); p.mkdir(); (p / 'array').write_text('half')\n"
        "print(p.name, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        left = tmp_path / writer.stdout.readline().strip()
        mine = tmp_path / temporary_name()
        mine.write_text("being written")
        (tmp_path / "unit").write_text("complete")
        assert sweep(tmp_path) == []
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert sweep(tmp_path) == [left]
    assert sorted(tmp_path.iterdir()) == sorted([mine, tmp_path / "unit"])


def test_what_another_machine_writes_is_swept_only_when_unchanged_for_a_day(tmp_path):
    foreign = tmp_path / f"{atomic.TEMPORARY}1-abc-elsewhere.1"
    foreign.mkdir()
    (foreign / "array").write_text("half")
    old = time.time() - atomic.ABANDONED_SECONDS - 60
    os.utime(foreign, (old, old))
    assert sweep(tmp_path) == []  # its folder is old, but a file in it still grows
    os.utime(foreign / "array", (old, old))
    assert sweep(tmp_path) == [foreign]


def test_sweeping_a_folder_that_is_not_there_finds_nothing(tmp_path):
    assert sweep(tmp_path / "nowhere") == []
