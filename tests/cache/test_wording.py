"""Counts in messages."""

from __future__ import annotations

from stvg.wording import counted


def test_one_thing_is_counted_in_the_singular() -> None:
    assert [counted(n, "fault") for n in (0, 1, 2, 1204)] == ["0 faults", "1 fault", "2 faults", "1,204 faults"]
    assert [counted(n, "box", "boxes") for n in (1, 2)] == ["1 box", "2 boxes"]
