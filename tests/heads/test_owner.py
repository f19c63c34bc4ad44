"""One living run owns a folder: others are refused with its name, and what a dead one left behind stops nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from stvg.errors import StvgError, UsageError
from stvg.heads.training import owner
from stvg.heads.training.owner import OWNER, Lock, Owner, owned, read_owner, require_owned
from stvg.stop import Interrupted

HOLD = """
import sys, time
from pathlib import Path
from stvg.heads.training.owner import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that owns ``tmp_path / "run"``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write(folder, who):
    folder.mkdir(exist_ok=True)
    (folder / OWNER).write_text(json.dumps(asdict(who)))


def test_a_living_owner_refuses_others_by_name_and_a_killed_one_nobody(stvg, tiny_cache, tmp_path, holder):
    words = ("train-head", "--cache", tiny_cache, "--out", tmp_path / "run", "--preset", "tiny", "--device", "cpu")
    ran = stvg(*words)
    assert ran.code == 1
    assert "run is in use: another run is writing to it" in ran.err
    assert f"process {holder.pid} on " in ran.err
    assert [p.name for p in (tmp_path / "run").iterdir()] == [OWNER]
    with pytest.raises(UsageError, match="in use"), owned(tmp_path / "run"):
        pass
    holder.kill()  # and not yet collected by its parent
    time.sleep(0.1)
    with owned(tmp_path / "run"):
        assert read_owner(tmp_path / "run" / OWNER).pid == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_folder_back(tmp_path, number):
    def interrupted():
        with owned(tmp_path):
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(Interrupted):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_error_gives_the_folder_back_and_leaves_no_empty_one(tmp_path):
    with pytest.raises(StvgError), owned(tmp_path / "new"):
        raise StvgError("no cache")
    assert not (tmp_path / "new").exists()


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    write(tmp_path, replace(Owner.here(), born="1"))
    with owned(tmp_path):
        assert read_owner(tmp_path / OWNER) != Owner.here()


def test_an_owner_on_another_machine_lives_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "SILENCE", 3.0)
    monkeypatch.setattr(owner, "BEAT", 0.1)
    write(tmp_path, replace(Owner.here(), host="elsewhere.1/x"))
    threading.Timer(0.3, os.utime, [tmp_path / OWNER]).start()
    with pytest.raises(UsageError, match="in use") as refused, owned(tmp_path):
        pass
    assert "on elsewhere.1" in refused.value.facts["found"]
    monkeypatch.setattr(owner, "SILENCE", 0.3)
    with owned(tmp_path):
        assert read_owner(tmp_path / OWNER).host != "elsewhere.1/x"


def test_signs_of_life_are_given_and_a_name_that_was_removed_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "BEAT", 0.02)
    with owned(tmp_path):
        before = (tmp_path / OWNER).stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / OWNER).stat().st_mtime_ns > before
        (tmp_path / OWNER).unlink()
        time.sleep(0.3)
        assert read_owner(tmp_path / OWNER).pid == os.getpid()


def test_a_run_that_was_taken_for_dead_writes_nothing_more(tmp_path):
    with owned(tmp_path):
        require_owned(tmp_path)
        write(tmp_path, replace(Owner.here(), host="elsewhere.1/x"))
        with pytest.raises(StvgError, match="belongs to another run by now"):
            require_owned(tmp_path)
    assert read_owner(tmp_path / OWNER).host == "elsewhere.1/x"


def test_the_name_of_a_faster_successor_is_never_removed_as_that_of_the_dead(tmp_path):
    dead, faster = replace(Owner.here(), born="1"), Owner.here()
    write(tmp_path, faster)
    Lock(tmp_path).put_aside(dead)
    assert read_owner(tmp_path / OWNER) == faster
    assert [p.name for p in tmp_path.iterdir()] == [OWNER]


def test_of_many_that_find_a_dead_owner_at_once_one_gets_the_folder(tmp_path):
    write(tmp_path, replace(Owner.here(), born="1"))
    command = [sys.executable, "-c", HOLD.replace("60", "3"), str(tmp_path)]
    team = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(3)]
    said = [process.communicate()[0] for process in team]
    assert said.count("held\n") == 1
