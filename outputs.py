"""Output files and folders: tests before the work starts, and one message for a failed write."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic import TEMPORARY, is_stream, temporary_name
from .errors import UsageError, WriteError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors that only writes raise."""
FILE_SYSTEM = (
    *NO_ROOM,
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR),
    *(
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ETXTBSY,
    ),
)
"""Errors caused by a path, a disk or the limits of a process, not by the program."""
BLOCK = 4096
"""Bytes of a trial write. An empty file would succeed on a full disk."""
REFUSED = "nothing was read or written"


def writable_file(path: Path) -> Path:
    """Return ``path`` if a file can be written there. Missing parent folders are allowed if they can be created.

    Existing files are not changed, and no file remains. Raises UsageError if writing is impossible.
    """
    if path.is_dir():
        raise _unusable(path, "a folder instead of a file", hint=f"name a file in it, such as {path / 'out'}")
    if not is_stream(path):
        _try(path, path.parent)
    return path


def writable_folder(path: Path) -> Path:
    """Return ``path`` if it is a writable folder or can be created. Otherwise like `writable_file`."""
    if os.path.lexists(path) and not path.is_dir():
        raise _unusable(path, _other_kind(path), hint="name another folder, or move the file away")
    _try(path, path)
    return path


def _try(path: Path, folder: Path) -> None:
    """Write and remove a trial file in the nearest existing parent of ``folder``."""
    existing = folder
    try:
        while not os.path.lexists(existing):
            existing = existing.parent
        if not existing.is_dir():
            raise _unusable(path, f"{existing} is {_other_kind(existing)}", hint="name another place")
        longest = os.pathconf(existing, "PC_NAME_MAX")
        for name in path.relative_to(existing).parts if path != existing else ():
            if len(os.fsencode(name)) > longest:
                raise OSError(errno.ENAMETOOLONG, f"{os.strerror(errno.ENAMETOOLONG)}: at most {longest} bytes", name)
        _write_on_trial(existing / temporary_name())
    except OSError as error:
        raise _unusable(path, reason(error), hint="name another place, or make this one writable") from None


def _write_on_trial(path: Path) -> None:
    try:
        with path.open("xb", buffering=0) as file:
            file.write(bytes(BLOCK))
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def _other_kind(path: Path) -> str:
    """Name of the kind of entry that exists instead of a folder."""
    return "a file" if path.exists() else "a broken link"


def _unusable(path: Path, found: str, hint: str) -> UsageError:
    return UsageError(f"{path} cannot be written", found=found, effect=REFUSED, hint=hint)


def reason(error: OSError) -> str:
    """The message of the operating system, without the error number."""
    said = error.strerror or str(error) or type(error).__name__
    return os.strerror(error.errno) if error.errno in FILE_SYSTEM and "\n" in said else said  # HDF5 adds its state


def of_file_system(error: OSError) -> bool:
    """Whether an error is caused by a path or a disk, not by the program."""
    return not isinstance(error, ConnectionError) and (error.filename is not None or error.errno in FILE_SYSTEM)


def _below(name: str, place: str) -> bool:
    """Whether a file is ``place``, is inside it, or is a temporary file, which every write uses."""
    return Path(name).absolute().is_relative_to(Path(place).absolute()) or Path(name).name.startswith(TEMPORARY)


@contextmanager
def naming_write_errors(
    place: object,
    effect: str = "the file was not written; finished results are kept",
    hint: str = "free disk space or fix the disk, then repeat the command",
) -> Iterator[None]:
    """Convert errors of the operating system from writing at or below ``place`` to WriteError."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not of_file_system(error):  # HDF5 errors may have no number
            raise
        elsewhere = isinstance(error.filename, str) and not _below(error.filename, str(place))
        if elsewhere and error.errno not in NO_ROOM:  # an error of reading
            raise
        found = f"{error.filename}: {reason(error)}" if elsewhere else reason(error)
        shown = Path(str(place)).parent if Path(str(place)).name.startswith(TEMPORARY) else place
        raise WriteError(f"{shown} cannot be written", found=found, effect=effect, hint=hint) from error
