"""Progress of long commands: one redrawn line on a terminal, and periodic lines in a log."""

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
"""Seconds between two updates on a terminal."""
FIRST, PERIOD = 5.0, 30.0
"""Seconds between the first two lines of a log, and the maximum between later ones. The pause doubles until then."""
BAR = 10
"""Characters of the bar."""


class Progress:
    """Progress of one command on stderr. The line is also updated without a finished step, so that its clock runs.

    ``total``: number of steps; None if unknown. ``done``: number of steps that an earlier run finished. ``doing``: name
    of the current work without counted steps, shown until the total is known. ``look``: function that gives ``terms``
    before every update. ``hidden``: write nothing; for all ranks but the first.
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
        """Additional facts, most important first."""
        self.limit = ""
        """Name of the slowest stage."""
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
        """Count more finished steps."""
        self.at(self.done + count)

    def at(self, done: int, total: int | None = None) -> None:
        """Set the number of finished steps, and the total if given."""
        if total is not None:
            self.total, self.doing = total, ""
        self.done = done
        if self.terminal and not self.hidden and time.monotonic() - self.shown > REDRAW:
            self.show()

    def say(self, text: str, *, err: bool = False) -> None:
        """Print text above the line."""
        with self.bar.external_write_mode() if self.terminal and not self.hidden else nullcontext():
            say(text, err=err)

    def show(self) -> None:
        """Update the line on the terminal. Write it to the log when that is due."""
        self.shown = time.monotonic()
        if self.look:
            self.terms = self.look()
        if self.terminal:
            columns = self.bar.format_dict["ncols"] or 80
            self.bar.set_description_str(self.line(columns - 1))
        if not self.terminal or self.shown >= self.log_due or self.ended.is_set():
            self._log()

    def _log(self) -> None:
        """Write the line to the log file, and to stderr if it is not a terminal. At the end, only a changed line."""
        line = self.line()
        if line != self.logged or not self.ended.is_set():
            log_file.copy(line) if self.terminal else say(line, err=True)
        if self.logged:
            self.log_pause = min(2 * self.log_pause, PERIOD)
        self.logged, self.log_due = line, self.shown + self.log_pause

    def line(self, columns: int | None = None) -> str:
        """The text of the line. With ``columns``, it holds as many facts as fit, most important first."""
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
        """Steps per second, and the remaining or elapsed time. Each is a list of at most one text."""
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
            except (OSError, ValueError, WriteError):  # stderr was closed
                return


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, such as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
