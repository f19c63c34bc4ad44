"""Graceful stop: SIGINT and SIGTERM request that the work finishes its current step, saves, and exits."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

IMPATIENT = 3.0
"""A signal repeated after this many seconds stops the work at once. Launchers repeat their signals sooner."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal.

    ``signal``: its number; the exit status is 128 more. ``says``: message for the user.
    """

    says = "interrupted; repeat the command to go on"

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number


class Stop:
    """Within this context, these signals do not raise. ``signal``: number of the first received signal; 0 for none.

    ``then``: function that is called with every received signal, for example to forward it.
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
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to the main thread only
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
        """Context for work that can stop at any point: a signal raises Interrupted at once."""
        if self.signal:
            raise Interrupted(self.signal)
        self.waits = False
        try:
            yield
        finally:
            self.waits = True
