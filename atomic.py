"""Files and folders that are there whole or not at all, and file names for any text.

Everything that lasts is written aside in the folder it belongs to, brought to the disk, and renamed into place. A kill
leaves at most a temporary name, which says who was writing it: `sweep` removes those whose writer is gone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from .objects import Location, ObjectPath

TEMPORARY = ".tmp-"
ABANDONED_SECONDS = 24 * 3600
"""After this long without a change, a leftover of another machine counts as abandoned."""
UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that cannot give a file a second name, or not there."""
LONGEST_NAME = 200
"""Bytes of a unit's file name; file systems allow 255, and suffixes need some."""


def write_atomic(path: Location, data: bytes | str) -> None:
    """Write a whole file, text as UTF-8. A reader sees the old content or the new one, even after a power cut."""
    data = data.encode() if isinstance(data, str) else data
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path, text: bool = False) -> Iterator[IO[Any]]:
    """A file to write; ``path`` is replaced when the block ends, and left as it was if the block raises.

    Folders above it that are missing are made. What is no file of a folder (see `is_stream`) is written to as it is.
    """
    if is_stream(path):
        with open(path, "a" if text else "ab", encoding="utf-8" if text else None) as stream:
            yield stream
        return
    make_folder(path.parent)
    temporary = path.parent / temporary_name()
    try:
        with open(temporary, "x" if text else "xb", encoding="utf-8" if text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_one(path.parent)


def is_stream(path: Path) -> bool:
    """Whether a path names a device, a pipe or an open file of this process, such as /dev/stdout."""
    named = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return named or (path.exists() and not path.is_file() and not path.is_dir())


def write_once(path: Location, data: bytes) -> bool:
    """Write a whole file unless there is one. Exactly one of several writers gets True, and its content stands; where files
    have no second names, and in a storage that knows no conditions, two that write at the very same instant may both."""
    if isinstance(path, ObjectPath):
        return not path.exists() and path.write_unless_changed(data, None)
    temporary = path.parent / temporary_name()
    try:
        write_atomic(temporary, data)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        if path.exists():
            return False
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_one(path.parent)
    return True


def publish(temporary: Path, final: Path) -> None:
    """Make a finished file or folder of the same parent folder visible under its name, in one step.

    Raises FileExistsError, and changes nothing, when the name is taken. Of two files published at the very same instant
    the later one stands; either way what stands is whole.
    """
    _sync(temporary)
    if final.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    try:
        os.rename(temporary, final)
    except OSError as error:  # renaming onto a folder that is not empty
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        raise
    _sync_one(final.parent)


def make_folder(path: Location) -> None:
    """Create a folder and those above it where missing, and bring the new names to the disk."""
    if isinstance(path, ObjectPath) or path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_one(path.parent)


def remove(path: Location) -> None:
    """Remove a file or a folder. What another process removes meanwhile, or may not be removed, is no error."""
    if isinstance(path, ObjectPath):
        path.unlink()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            return


def _sync(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def this_host() -> str:
    """This machine, and on it the namespace in which process numbers mean anything (a container has its own)."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        namespace = 0
    return f"{unit_name(socket.gethostname() or 'localhost')[:80]}.{namespace}"


def temporary_name() -> str:
    """A new name no reader looks at and no other writer takes; it says which process on which machine writes."""
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}-{this_host()}"


def sweep(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder (not below it) and return it; live writers keep what is theirs.

    A writer on this machine is live while its process is. What another machine wrote is removed once it has not changed
    for a day.
    """
    if not folder.is_dir():
        return []
    stale = [folder / name for name in os.listdir(folder) if name.startswith(TEMPORARY) and abandoned(folder / name)]
    for path in stale:
        remove(path)
    return sorted(path for path in stale if not path.exists())


def abandoned(path: Path) -> bool:
    """Whether the writer of a temporary name is gone."""
    writer = re.fullmatch(r"(\d{1,9})-[0-9a-f]+-(.+)", path.name.removeprefix(TEMPORARY))
    if writer and writer[2] == this_host():
        return not alive(int(writer[1]))
    return _last_change(path) < time.time() - ABANDONED_SECONDS


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def _last_change(path: Path) -> float:
    try:
        return max([path.stat().st_mtime, *(entry.stat().st_mtime for entry in path.rglob("*"))])
    except FileNotFoundError:  # being renamed or removed right now: its writer lives
        return time.time()


def unit_name(name: str) -> str:
    """One file name for any non-empty text: safe on every file system, different for different texts.

    Letters, digits and ``_.-~`` stay, other characters become ``%XX`` of their UTF-8. A leading dot, ``_`` or ``~`` is
    written as ``%XX`` too: hidden files, Zarr's reserved names and hashed names start with these. What would be longer
    than `LONGEST_NAME` becomes ``~`` and its SHA-256.
    """
    if not name:
        raise ValueError("a unit needs a name")
    quoted = quote(name, safe="", errors="surrogatepass")
    if quoted[0] in "._~":
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    if len(quoted) > LONGEST_NAME:
        return "~" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return quoted


def original_name(unit: str) -> str | None:
    """The text a file name stands for. None for a hashed name, which only the unit's record can tell.

    Raises ValueError for a name `unit_name` does not give.
    """
    if len(unit) == 65 and unit[0] == "~" and set(unit[1:]) <= set("0123456789abcdef"):
        return None
    name = unquote(unit, errors="surrogatepass")
    if unit_name(name) != unit:
        raise ValueError(f"{unit!r} is not the file name of a unit")
    return name
