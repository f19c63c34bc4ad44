"""How far a command is: readable in 60 columns, and a line now and then in a log."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import time
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import pytest

from stvg import console, log_file, options
from stvg.console import Progress, clock

TERMS = ["loss 9.87", "12.3 samples/s", "waiting 3%", "lr 1.0e-04", "l1 1.23", "giou 0.98", "4.5 GB"]


def under_way(seconds: float = 100.0, **facts: object) -> Progress:
    bar = Progress("train", "steps", 900, **facts)  # type: ignore[arg-type]
    bar.start = time.monotonic() - seconds
    bar.at(450)
    bar.terms = TERMS
    return bar


@pytest.mark.parametrize("columns", range(40, 200, 10))
def test_a_line_fits_its_terminal_and_says_the_most_important_first(columns):
    line = under_way().line(columns)
    assert len(line) <= columns
    assert line.startswith("train 50%  450/900")
    shown = [word for word in line.split("  ")[1:] if "█" not in word]
    assert shown[shown.index("1:40 left") :] == ["1:40 left", *TERMS][: len(shown) - shown.index("1:40 left")]
    assert shown[: shown.index("1:40 left")] in (["450/900 steps", "4.5/s"], ["450/900 steps"], ["450/900"])


def limited(**facts: object) -> Progress:
    bar = under_way(**facts)
    bar.limit = "compute"
    return bar


def test_sixty_columns_name_the_limiting_stage():
    assert limited().line(60) == "train 50%  450/900  1:40 left  loss 9.87  limit: compute"
    assert limited().line(72) == "train 50%  450/900 steps  4.5/s  1:40 left  loss 9.87  limit: compute"
    assert (
        limited().line().startswith("train: 50%, 450/900 steps, 4.5/s, 1:40 left, loss 9.87, limit: compute, 12.3 samp")
    )


def test_where_little_fits_the_time_left_comes_first():
    long = Progress("train", "steps", 90_000)
    long.start = time.monotonic() - 40_000
    long.at(45_000)
    long.terms, long.limit = TERMS, "compute"
    assert long.line(60) == "train 50%  11:06:40 left  loss 9.87  limit: compute"
    assert long.line(40) == "train 50%  11:06:40 left  loss 9.87"
    assert long.line(30) == "train 50%  11:06:40 left"


def test_sixty_columns_show_rate_time_and_loss_and_eighty_a_bar():
    assert under_way().line(60) == "train 50%  450/900 steps  4.5/s  1:40 left  loss 9.87"
    assert under_way().line(80).endswith("loss 9.87  █████░░░░░")


def test_the_longest_command_fits_sixty_columns():
    bar = Progress("evaluate", "sentences", 10303)
    bar.start = time.monotonic() - 1000
    bar.at(5000)
    assert bar.line(60) == "evaluate 48%  5,000/10,303 sentences  5/s  17:41 left"


def test_a_log_shows_all_terms_and_slow_steps_by_their_seconds():
    line = under_way().line()
    assert line == "train: 50%, 450/900 steps, 4.5/s, 1:40 left, " + ", ".join(TERMS)
    slow = Progress("ablate", "cells", 12, done=2)
    slow.start = time.monotonic() - 7200
    slow.at(4)
    assert slow.line() == "ablate: 33%, 4/12 cells, 1:00:00 each, 8:00:00 left"


def test_all_is_done_only_when_all_is_done():
    bar = Progress("verify", "units", 1000)
    bar.at(999)
    assert bar.line().startswith("verify: 99%")


def test_a_log_file_gets_what_is_said_and_the_progress_a_terminal_redraws(tmp_path, monkeypatch, capsys):
    log_file.start(tmp_path / "new/a.log")
    try:
        monkeypatch.setattr(console, "FIRST", 0.01)
        with Progress("train", "steps", 10) as bar:
            bar.terminal, bar.bar = True, Screen()  # type: ignore[assignment]
            bar.at(5)
            time.sleep(0.05)
            bar.say("epoch 1: m_vIoU 47.71")
        logging.getLogger("stvg").warning("an \x1b[31modd thing")
    finally:
        log_file.stop()
    lines = (tmp_path / "new/a.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    said = [line[20:] for line in lines]
    assert said[0] == "train: 0%, 0/10 steps"
    assert said.count("epoch 1: m_vIoU 47.71") == 1
    assert said[-2].startswith("train: 50%, 5/10 steps")
    assert said[-1].startswith("WARNING an ")
    assert "\x1b" not in said[-1]
    assert capsys.readouterr().out == "epoch 1: m_vIoU 47.71\n"


def test_a_log_that_cannot_be_written_ends_with_a_warning_and_the_command_goes_on(capsys):
    log_file.start(Path("/dev/full"))
    for text in ("one", "two"):
        options.say(text)
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err == "stvg: WARNING the log /dev/full cannot be written and stops here: No space left on device\n"


class Screen:
    """Stands for tqdm's line on a terminal."""

    format_dict: ClassVar = {"ncols": 80}

    def external_write_mode(self):
        return nullcontext()

    def set_description_str(self, text):
        pass

    def close(self):
        pass


def test_times_are_read_as_clocks():
    assert [clock(s) for s in (0.4, 65, 3723)] == ["0:00", "1:05", "1:02:03"]


def test_a_log_gets_lines_although_nothing_moves(capsys, monkeypatch):
    monkeypatch.setattr(console, "FIRST", 0.02)
    monkeypatch.setattr(console, "PERIOD", 0.05)
    with Progress("extract", "videos", doing="reading annotations") as bar:
        time.sleep(0.2)
        bar.at(0, 2)
        time.sleep(0.2)
        bar.step(2)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "extract: reading annotations"
    assert lines.count("extract: reading annotations") > 1
    assert lines.count("extract: 0%, 0/2 videos") > 1
    assert lines[-1].startswith("extract: 100%, 2/2 videos")
    assert "\r" not in said.err


def test_the_pauses_of_a_log_grow_to_half_a_minute():
    waits: list[float] = []

    class Never:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 6

        def is_set(self) -> bool:
            return False

    bar = Progress("verify", "units", 10)
    bar.terminal, bar.ended = False, Never()  # type: ignore[assignment]
    bar.show()
    bar._beat()
    assert waits == [5, 10, 20, 30, 30, 30, 30]


def test_other_ranks_are_silent(capsys):
    with Progress("train", "steps", 2, hidden=True) as bar:
        bar.step()
    assert capsys.readouterr().err == ""


def test_a_log_that_nobody_reads_any_more_does_not_end_the_work(monkeypatch):
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(console, "FIRST", 0)
    bar = Progress("train", "steps", 2)
    bar.terminal = False
    monkeypatch.setattr(console, "say", gone)
    bar._beat()


def test_a_terminal_of_sixty_columns_is_redrawn_in_place(monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    monkeypatch.setattr(console, "REDRAW", 0.05)
    with open(theirs, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        with Progress("train", "steps", 900) as bar:
            bar.start -= 100
            bar.terms = TERMS
            bar.at(450)
            time.sleep(0.3)
            bar.at(900)
        shown = b""
        while b"\n" not in shown:  # a terminal hands over in parts
            shown += os.read(ours, 100_000)
        drawn = shown.decode()
        monkeypatch.undo()
    os.close(ours)
    assert drawn.count("\n") == 1
    lines = [line.strip() for line in drawn.split("\r") if line.strip()]
    assert len(lines) > 3
    assert all(len(line) < 60 for line in lines)
    assert any("450/900 steps  4.5/s  1:40 left  loss 9.87" in line for line in lines)
    assert lines[-1].startswith("train 100%  900/900 steps")


def test_an_extraction_names_its_limiting_stage_in_sixty_columns():
    from stvg.extract.progress import ExtractionProgress

    bar = Progress("extract", "videos", 6770)
    told = ExtractionProgress(bar)
    bar.start = told.start = time.monotonic() - 9000
    told.encoded = 585_000
    bar.done = 3249
    told("v", 180, None, {"decode": 0.97, "encode": 0.4, "write": 0.02})
    assert bar.line(60).startswith("extract 48%  2:42:")
    assert bar.line(60).endswith("585,000 frames  limit: decode")
    assert bar.line().endswith("585,000 frames, limit: decode, 65 frames/s, decode 97%, encode 40%, write 2%")


def test_videos_that_were_in_the_cache_count_as_done_and_not_in_the_pace():
    from stvg.extract.progress import ExtractionProgress

    bar = Progress("extract", "videos")
    bar.start = time.monotonic() - 100
    told = ExtractionProgress(bar)
    told.total(20)
    for number in range(15):
        told(str(number), 12 if number >= 10 else 0, None, {"decode": 0.5})
    assert bar.line().startswith("extract: 75%, 15/20 videos, 20 s each, 1:40 left")
