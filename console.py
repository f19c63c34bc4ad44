"""How far a long command is: a line that is redrawn on a terminal, and in a log a new line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import Event, Thread
from typing import Self

from .options import say

REDRAW = 0.5
"""Seconds between two drawings on a terminal."""
FIRST, PERIOD = 5.0, 30.0
"""Seconds to the second line in a log, and at most between two lines: the pause doubles from the one to the other."""
BAR = 10


class Progress:
    """Progress of one command on stderr. The line is written although nothing moves: its clock shows that work goes on.

    ``total``: steps in all, None where unknown yet; ``done``: steps that an earlier run did; ``doing``: what happens now
    that is not counted; it ends when the total is told. ``look``: asked for ``terms`` before every
    line. ``hidden``: write nothing, as every rank but the first.
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
        self.doing, self.look = doing, look
        self.hidden, self.terminal, self.logged = hidden, sys.stderr.isatty(), ""
        self.start, self.shown, self.ended = time.monotonic(), 0.0, Event()
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
        if not self.terminal:
            line = self.line()
            if line != self.logged or not self.ended.is_set():  # at the end, only what is new
                say(line, err=True)
            self.logged = line
        else:
            columns = self.bar.format_dict["ncols"] or 80
            self.bar.set_description_str(self.line(columns - 1))

    def line(self, columns: int | None = None) -> str:
        """What is known: within ``columns`` as much of it as fits, the most important first."""
        percent = f"{100 * self.done // self.total}%" if self.total else ""
        facts, terms = [f for f in (*self._count(), *self._pace(), self.doing) if f], [t for t in self.terms if t]
        if columns is None:
            return f"{self.name}: " + (", ".join([*([percent] if percent else []), *facts, *terms]) or "started")
        drawn = []
        if self.total:
            length = BAR * self.done // self.total
            drawn = ["█" * length + "░" * (BAR - length)]
        text = f"{self.name} {percent}".rstrip()
        for more in (*facts, *terms[:1], *drawn, *terms[1:]):
            if len(text) + 2 + len(more) > columns:
                break
            text += f"  {more}"
        return text

    def _count(self) -> list[str]:
        if self.total is not None:
            return [f"{self.done:,}/{self.total:,} {self.unit}"]
        return [f"{self.done:,} {self.unit}"] if self.done else []

    def _pace(self) -> list[str]:
        """Steps per second, and the time left, or taken until now."""
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
        return [*rate, left] if seconds >= 1 else rate

    def _beat(self) -> None:
        pause = REDRAW if self.terminal else FIRST
        while not self.ended.wait(pause):
            try:
                self.show()
            except (OSError, ValueError):  # nobody reads it any more
                return
            pause = REDRAW if self.terminal else min(2 * pause, PERIOD)


def clock(seconds: float) -> str:
    """1:05, 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
