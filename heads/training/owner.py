"""Ownership of a run folder: one running process at a time, also across machines that share a disk.

The file `OWNER` in the folder identifies the owner, from before the run reads its checkpoint until it ends. Its
modification time is a heartbeat, updated every `BEAT` seconds. An owner on this machine is dead when its process has
ended; one on another machine, when its heartbeat has stopped for `SILENCE` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...atomic import alive, make_folder, remove, temporary_name, this_host, write_once
from ...errors import StvgError, UsageError
from ...stop import Stop

if TYPE_CHECKING:
    from .ranks import Ranks

log = logging.getLogger(__name__)

OWNER = "running.json"
BEAT = 10.0
SILENCE = 120.0


@dataclass(frozen=True)
class Owner:
    """Identifies a process. The start time distinguishes it from a later process with the same number, the host from
    one on another machine."""

    host: str
    pid: int
    born: str | None
    """The start time of the process, see `born`."""
    since: str
    """When it became the owner, as text for users."""
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def here(cls) -> Owner:
        return cls(machine(), os.getpid(), born(os.getpid()), time.strftime("%Y-%m-%d %H:%M:%S %z"))

    def on_this_machine(self) -> bool:
        return self.host == machine()

    def lives(self) -> bool:
        """Whether the process runs. Only valid for an owner on this machine."""
        found = born(self.pid)
        return alive(self.pid) if found is None else found == self.born

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split('/')[0]}, since {self.since}"


def machine() -> str:
    """Identifies this machine, its last boot, and the namespace of its process numbers."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        start = ""
    return f"{this_host()}/{start}"


def born(pid: int) -> str | None:
    """The start time of a process of this machine, as the system reports it. Empty for a zombie, which has ended but is
    not reaped by its parent; None where it cannot be determined."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except OSError:
        if Path("/proc/self").exists():
            return None
    return (
        subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip() or None
    )


@contextmanager
def owned(folder: Path, ranks: Ranks | None = None) -> Iterator[None]:
    """Context in which this process owns the folder of a run, created where missing. The first rank owns it for all
    ranks.

    SIGINT and SIGTERM raise `Interrupted`, so that the folder is released. Raises UsageError, on every rank, where
    another run owns it.
    """
    lock = Lock(folder)
    try:
        with Stop() as stop, stop.at_once():
            refused = lock.refused() if ranks is None or ranks.first else None
            for error in [refused] if ranks is None else ranks.gather(refused):
                if error is not None:
                    raise error
            yield
    finally:
        lock.give_back()


class Lock:
    """The ownership of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.me = folder, folder / OWNER, Owner.here()
        self.beating: threading.Thread | None = None
        self.end = threading.Event()
        self.made = False

    def refused(self) -> StvgError | None:
        """Become the owner; returns the error where that fails."""
        try:
            self.take()
        except StvgError as error:
            return error
        except OSError as error:
            return UsageError(
                f"{self.folder} cannot be written to", found=error.strerror, hint="choose another --out folder"
            )
        return None

    def take(self) -> None:
        """Become the owner. Raises UsageError where another owner is alive."""
        self.made = not self.folder.exists()
        make_folder(self.folder)
        while not self.written():
            if (owner := read_owner(self.path)) is not None:
                self.require_dead(owner)
                self.put_aside(owner)
        HELD[self.folder.resolve()] = self
        self.beating = threading.Thread(target=self.beat, name="owner", daemon=True)
        self.beating.start()

    def written(self) -> bool:
        """Write the owner file, unless there is one. Returns whether it was written."""
        return write_once(self.path, (json.dumps(asdict(self.me), indent=1) + "\n").encode())

    def require_dead(self, owner: Owner) -> None:
        """Raises UsageError where the owner is alive. For one on another machine, waits up to `SILENCE` seconds for a
        heartbeat."""
        if owner.on_this_machine():
            if owner.lives():
                raise in_use(self.folder, owner)
            return
        if (first := last_sign(self.path)) is None:
            return
        left = SILENCE - max(0.0, now_at(self.folder) - first)
        if left > 0:
            log.warning("%s was last used by %s; waiting up to %.0f s for a sign of life", self.folder, owner, left)
        until = time.monotonic() + left
        while time.monotonic() < until:
            time.sleep(min(1.0, BEAT))
            if (last := last_sign(self.path)) is None:
                return
            if last != first:
                raise in_use(self.folder, owner)

    def put_aside(self, owner: Owner) -> None:
        """Remove the owner file of a dead owner only: several runs may find it dead at the same moment."""
        aside = self.folder / temporary_name()
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if read_owner(aside) != owner:  # another run took over meanwhile; restore its file
            write_once(self.path, aside.read_bytes())
        remove(aside)

    def mine(self) -> bool:
        """Whether this process is still the owner. Its owner file is written again where it was removed."""
        try:
            owner = read_owner(self.path)
            return owner == self.me or (owner is None and self.folder.is_dir() and self.written())
        except UsageError:
            return False

    def beat(self) -> None:
        while not self.end.wait(BEAT):
            try:
                if self.mine():
                    os.utime(self.path)
            except OSError:  # a short disk failure; SILENCE is much longer than BEAT
                continue

    def give_back(self) -> None:
        """Release the folder. It is removed where this process created it and it is empty."""
        self.end.set()
        if self.beating is not None:
            self.beating.join()
        HELD.pop(self.folder.resolve(), None)
        try:
            if read_owner(self.path) == self.me:
                remove(self.path)
            if self.made and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except (UsageError, OSError):  # it was removed or changed meanwhile
            return


HELD: dict[Path, Lock] = {}
"""The locks that this process holds."""


def require_owned(folder: Path) -> None:
    """Checked before a run writes. Raises StvgError where this process lost the ownership: it was suspended for so long
    that another machine considered it dead."""
    lock = HELD.get(folder.resolve())
    if lock is not None and not lock.mine():
        raise StvgError(
            f"{folder} belongs to another run by now",
            effect="nothing more was written here; this process stood still for long, and another one took over",
            hint="let the other run go on",
        )


def in_use(folder: Path, owner: Owner) -> UsageError:
    return UsageError(
        f"{folder} is in use: another run is writing to it",
        found=owner,
        effect="nothing was read or written",
        hint="wait until it ends, or choose another --out folder",
    )


def read_owner(path: Path) -> Owner | None:
    """The owner in a file; None where the file is missing. Raises UsageError where it is not a valid owner file."""
    try:
        with path.open(encoding="utf-8") as file:  # opening makes a network disk refresh its cache
            return Owner(**json.load(file))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} names no run", found=error, hint="remove it if no run uses the folder") from None


def last_sign(path: Path) -> float | None:
    """The modification time of a file, by the clock of its disk; None where the file is missing."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def now_at(folder: Path) -> float:
    """The current time by the clock of a folder's disk, which may belong to another machine."""
    probe = folder / temporary_name()
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        remove(probe)
