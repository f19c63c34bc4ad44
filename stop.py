"""Ending work from outside: some signals are wishes. What is under way ends and is saved, then the work stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

IMPATIENT = 3.0
"""Seconds after which a repeated signal ends the work where it stands. Launchers repeat theirs sooner."""


class Interrupted(KeyboardInterrupt):
    """Work was asked to end, and did. ``signal``: by which signal; the exit status is 128 more. ``says``: for the user."""

    says = "interrupted; repeat the command to go on"

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """While this context is open, these signals do not raise; ``signal`` says which one came, 0 for none.

    ``then`` is called with each of them, to pass it on.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        then: Callable[[int], object] | None = None,
    ) -> None:
        self.signals, self.then = signals, then
        self.signal, self.since = 0, 0.0
        self.waits = True
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self.before = {number: signal.signal(number, self.receive) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: FrameType | None) -> None:
        if self.then:
            self.then(number)
        now = time.monotonic()
        if not self.waits or (self.signal and now - self.since > IMPATIENT):
            raise Interrupted(number)
        if not self.signal:
            self.signal, self.since = number, now

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around what may be left at any moment: a signal raises Interrupted there and then."""
        if self.signal:
            raise Interrupted(self.signal)
        self.waits = False
        try:
            yield
        finally:
            self.waits = True
