"""How far a long command is: a line that is redrawn on a terminal, and in a log a new line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import Event, Thread
from typing import Self

from . import log_file
from .errors import WriteError
from .options import say

REDRAW = 0.5
"""Seconds between two drawings on a terminal."""
FIRST, PERIOD = 5.0, 30.0
"""Seconds to the second line in a log, and at most between two lines: the pause doubles from the one to the other."""
BAR = 10


class Progress:
    """Progress of one command on stderr. The line is written although nothing moves: its clock shows that work goes on.

    ``total``: steps in all, None where unknown yet; ``done``: steps that an earlier run did; ``doing``: what happens now
    that is not counted; it ends when the total is told. ``look``: asked for ``terms`` before every line.
    ``hidden``: write nothing, as every rank but the first.
    """

    def __init__(
        self,
        name: str,
        unit: str = "",
        total: int | None = None,
        done: int = 0,
        *,
        doing: str = "",
        look: Callable[[], Sequence[str]] | None = None,
        hidden: bool = False,
    ) -> None:
        self.name, self.unit, self.total = name, unit, total
        self.done = self.first = done
        self.terms: Sequence[str] = ()
        """What else there is to know, the most important first."""
        self.limit = ""
        """The stage that the others wait for."""
        self.doing, self.look = doing, look
        self.hidden, self.terminal = hidden, sys.stderr.isatty()
        self.start, self.shown, self.ended = time.monotonic(), 0.0, Event()
        self.logged, self.log_due, self.log_pause = "", 0.0, FIRST
        self.thread = Thread(target=self._beat, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if not self.hidden:
            if self.terminal:
                from tqdm import tqdm

                self.bar = tqdm(bar_format="{desc}", dynamic_ncols=True, file=sys.stderr)
            self.show()
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if not self.hidden:
            self.thread.join()
            self.show()
            if self.terminal:
                self.bar.close()

    def step(self, count: int = 1) -> None:
        """So many steps more are done."""
        self.at(self.done + count)

    def at(self, done: int, total: int | None = None) -> None:
        """``done`` steps are done, of ``total`` if that is known now."""
        if total is not None:
            self.total, self.doing = total, ""
        self.done = done
        if self.terminal and not self.hidden and time.monotonic() - self.shown > REDRAW:
            self.show()

    def say(self, text: str, *, err: bool = False) -> None:
        """Text of its own, above the line."""
        with self.bar.external_write_mode() if self.terminal and not self.hidden else nullcontext():
            say(text, err=err)

    def show(self) -> None:
        """Draw the line, or write one into the log."""
        self.shown = time.monotonic()
        if self.look:
            self.terms = self.look()
        if self.terminal:
            columns = self.bar.format_dict["ncols"] or 80
            self.bar.set_description_str(self.line(columns - 1))
        if not self.terminal or self.shown >= self.log_due or self.ended.is_set():
            self._log()

    def _log(self) -> None:
        """Write the line into the log: stderr where that is no terminal, and the log file. At the end, only what is new."""
        line = self.line()
        if line != self.logged or not self.ended.is_set():
            log_file.copy(line) if self.terminal else say(line, err=True)
        if self.logged:
            self.log_pause = min(2 * self.log_pause, PERIOD)
        self.logged, self.log_due = line, self.shown + self.log_pause

    def line(self, columns: int | None = None) -> str:
        """What is known: within ``columns`` as much of it as fits, the most important first."""
        percent = f"{100 * self.done // self.total}%" if self.total else ""
        terms, limit = [t for t in self.terms if t], [f"limit: {self.limit}"] if self.limit else []
        count, rate, left = self._count(), *self._pace()
        doing = [self.doing] if self.doing else []
        if columns is None:
            facts = [*([percent] if percent else []), *count, *rate, *left, *doing, *terms[:1], *limit, *terms[1:]]
            return f"{self.name}: " + (", ".join(facts) or "started")
        needed = [*left, *doing, *terms[:1], *limit]
        bare = [count[0].partition(" ")[0]] if count else []
        for head in ([*count, *rate], count, bare, []):
            text = "  ".join([f"{self.name} {percent}".rstrip(), *head, *needed])
            if len(text) <= columns:
                break
        while len(text) > columns and needed:
            text = "  ".join([f"{self.name} {percent}".rstrip(), *(needed := needed[:-1])])
        length = BAR * self.done // self.total if self.total else 0
        for more in [*(["█" * length + "░" * (BAR - length)] if self.total else []), *terms[1:]]:
            if len(text) + 2 + len(more) > columns:
                break
            text += f"  {more}"
        return text

    def _count(self) -> list[str]:
        if self.total is not None:
            return [f"{self.done:,}/{self.total:,} {self.unit}"]
        return [f"{self.done:,} {self.unit}"] if self.done else []

    def _pace(self) -> tuple[list[str], list[str]]:
        """Steps per second; and the time left, or taken until now."""
        seconds, rate = time.monotonic() - self.start, []
        left = f"{clock(seconds)} so far"
        if self.done > self.first and seconds:
            each = seconds / (self.done - self.first)
            slow = f"{each:.3g} s" if each < 60 else clock(each)
            rate = [f"{1 / each:.3g}/s" if each < 1 else f"{slow} each"]
            if self.total:
                left = f"{clock(each * (self.total - self.done))} left"
        if self.ended.is_set():
            left = f"in {clock(seconds)}"
        return rate, [left] if seconds >= 1 else []

    def _beat(self) -> None:
        while not self.ended.wait(REDRAW if self.terminal else self.log_pause):
            try:
                self.show()
            except (OSError, ValueError, WriteError):  # nobody reads it any more
                return


def clock(seconds: float) -> str:
    """1:05, 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
