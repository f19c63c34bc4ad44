"""Atomic writes of files and folders, and file names for any text.

Every file is written under a temporary name in its final folder, flushed to disk, and renamed. A killed process leaves
at most a temporary file or folder. Its name identifies the writer, and `sweep` removes it when the writer no longer
runs.
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
"""Prefix of temporary names."""
ABANDONED_SECONDS = 24 * 3600
"""A temporary of another machine is abandoned after this time without a change."""
UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot create a hard link, or not at this place."""
LONGEST_NAME = 200
"""Maximum bytes of a unit's file name. File systems allow 255, and suffixes need some of them."""


def write_atomic(path: Location, data: bytes | str) -> None:
    """Write a file, text as UTF-8. Readers see the old or the new content, also after a power failure."""
    data = data.encode() if isinstance(data, str) else data
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: Path, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file for writing. ``path`` is replaced when the block ends, and unchanged if the block raises.

    Missing parent folders are created. A stream (see `is_stream`) is written to directly.
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
    """Whether a path is a device, a pipe or an open file of this process, such as /dev/stdout."""
    named = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return named or (path.exists() and not path.is_file() and not path.is_dir())


def write_once(path: Location, data: bytes) -> bool:
    """Write a file unless it exists. Returns True for exactly one of several writers, whose content is kept.

    Without hard links, or in a storage without conditional requests, two simultaneous writers may both get True.
    """
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
    """Rename a finished file or folder to its final name in the same parent folder, atomically.

    Raises FileExistsError, and changes nothing, if the name exists. If two files are published at the same instant, the
    later one replaces the other; both are complete.
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
    """Create a folder and its missing parents, and flush the new names to disk."""
    if isinstance(path, ObjectPath) or path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_one(path.parent)


def remove(path: Location) -> None:
    """Remove a file or a folder. Missing files and files without permission to remove are ignored."""
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
    """Name of this machine and of its namespace of process ids; every container has its own namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        namespace = 0
    return f"{unit_name(socket.gethostname() or 'localhost')[:80]}.{namespace}"


def temporary_name() -> str:
    """A unique temporary name, which readers ignore. It contains the process id and the machine of the writer."""
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}-{this_host()}"


def sweep(folder: Path) -> list[Path]:
    """Remove the temporaries of killed writers from a folder (not from its subfolders). Returns the removed paths.

    Temporaries of this machine are kept while their process runs. Those of another machine are removed after a day
    without a change.
    """
    if not folder.is_dir():
        return []
    stale = [folder / name for name in os.listdir(folder) if name.startswith(TEMPORARY) and abandoned(folder / name)]
    for path in stale:
        remove(path)
    return sorted(path for path in stale if not path.exists())


def abandoned(path: Path) -> bool:
    """Whether the writer of a temporary no longer runs."""
    writer = re.fullmatch(r"(\d{1,9})-[0-9a-f]+-(.+)", path.name.removeprefix(TEMPORARY))
    if writer and writer[2] == this_host():
        return not alive(int(writer[1]))
    return _last_change(path) < time.time() - ABANDONED_SECONDS


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a running process of another user
        return True
    return True


def _last_change(path: Path) -> float:
    try:
        return max([path.stat().st_mtime, *(entry.stat().st_mtime for entry in path.rglob("*"))])
    except FileNotFoundError:  # renamed or removed at this moment: the writer runs
        return time.time()


def unit_name(name: str) -> str:
    """A file name for any non-empty text: valid on every file system, and unique for each text.

    Letters, digits and ``_.-~`` stay. Other characters become ``%XX`` of their UTF-8 bytes. A leading dot, ``_`` or
    ``~`` becomes ``%XX`` too, because hidden files, Zarr's reserved names and hashed names start with these. A name
    longer than `LONGEST_NAME` becomes ``~`` and the SHA-256 of the text.
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
    """The inverse of `unit_name`. None for a hashed name; the unit's record holds the text then.

    Raises ValueError for a name that `unit_name` cannot return.
    """
    if len(unit) == 65 and unit[0] == "~" and set(unit[1:]) <= set("0123456789abcdef"):
        return None
    name = unquote(unit, errors="surrogatepass")
    if unit_name(name) != unit:
        raise ValueError(f"{unit!r} is not the file name of a unit")
    return name
