"""Paths in object storage (``s3://bucket/folder``), with the methods of `pathlib.Path` that a cache needs.

Objects are written atomically. There are no folders: a name is a folder if objects exist below it. Failed requests are
repeated with increasing pauses, and finally raise CacheError. Requests are made by the obstore library, which reads the
usual settings (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …) from the environment.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from .errors import CacheError, UsageError
from .wording import install

Result = TypeVar("Result")

log = logging.getLogger(__name__)
Tag = dict[str, str]
"""Identifies one version of an object."""

HEADER = "cache.json"
"""The file that marks a folder as a cache."""
ATTEMPTS = 4
"""Maximum number of attempts for a request that fails in a way that the library does not retry itself."""
PAUSE_SECONDS = 0.5
"""Pause before the second attempt. It doubles before each later one."""
SERVER_RETRIES = 8
"""The library's own retries of one request."""
PATIENCE_SECONDS = 120
"""Maximum total time of these retries."""
BUCKET = r"[A-Za-z0-9._-]+"
AUTHORITIES = dict.fromkeys(("http", "https"), BUCKET + r"(:\d+)?") | dict.fromkeys(
    ("abfs", "abfss"), BUCKET + f"(@{BUCKET})?"
)
"""Patterns of the part between ``://`` and the next slash, for schemes where it is more than a bucket's name."""
SLOWEST_SECONDS = 30
"""Timeout of one request, after which it is repeated."""


@dataclass(frozen=True)
class ObjectPath:
    """A name in a bucket. ``root``: ``scheme://bucket``. ``key``: the rest, without slashes at its ends."""

    root: str
    key: str = ""

    @classmethod
    def parse(cls, url: str) -> ObjectPath:
        """Parse ``scheme://bucket/key``. Raises UsageError for an invalid bucket or key."""
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        scheme, key = scheme.lower(), key.rstrip("/")
        if not re.fullmatch(AUTHORITIES.get(scheme, BUCKET), bucket):
            raise _unusable(url, f"{bucket!r} is not a bucket name", f"{scheme}://bucket/folder")
        if scheme in ("http", "https") and set(key) & set("?#"):
            raise _unusable(url, "a query or a fragment", "an address without one")
        if any(part in ("", ".", "..") for part in key.split("/") if key) or not key.isprintable():
            raise _unusable(url, f"the key {key!r}", "names separated by single slashes, none of them . or ..")
        return cls(f"{scheme}://{bucket}", key)

    def __str__(self) -> str:
        return f"{self.root}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.root, f"{self.key}/{name}" if self.key else name)

    def __lt__(self, other: ObjectPath) -> bool:
        return (self.root, self.key) < (other.root, other.key)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, self.key.rpartition("/")[0])

    def is_file(self) -> bool:
        try:
            self._ask("head")
        except FileNotFoundError:
            return False
        return True

    def size(self) -> int:
        """Size in bytes. Raises FileNotFoundError."""
        return int(self._ask("head")["size"])

    def is_dir(self) -> bool:
        return next(self.iterdir(), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self._ask("get", then=lambda answer: answer.bytes()))

    def read_ranges(self, starts: Sequence[int], ends: Sequence[int]) -> list[Any]:
        """Read half-open byte ranges concurrently. Returns buffers, which are shorter if the object ends earlier."""
        return list(self._ask("get_ranges", starts=starts, ends=ends, coalesce=0))

    def write_bytes(self, data: bytes | Path) -> None:
        """Replace the object atomically."""
        self._ask("put", data)

    def read_tagged(self) -> tuple[bytes, Tag]:
        """The content, and the tag of this version of the object. Raises FileNotFoundError."""

        def tagged(answer: Any) -> tuple[bytes, Tag]:
            tag = {name: answer.meta[name] for name in ("e_tag", "version") if answer.meta.get(name)}
            return bytes(answer.bytes()), tag

        found: tuple[bytes, Tag] = self._ask("get", then=tagged)
        return found

    def write_unless_changed(self, data: bytes, tag: Tag | None) -> bool:
        """Replace the version with this tag; with None, create the object. Returns False if another version exists.

        A storage without conditional requests replaces any version, and a warning is logged.
        """
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        def put() -> bool:
            try:
                self._module.put(self._client, self.key, data, mode="create" if tag is None else tag or "overwrite")
            except (NotSupportedError, NotImplementedError):
                log.warning(
                    "%s: this storage has no conditional writes; let one process at a time write annotations there",
                    self,
                )
                self._module.put(self._client, self.key, data)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return False
            return True

        if _request(self, put):
            return True
        try:
            return self.read_bytes() == data  # True if an earlier attempt succeeded without a response
        except FileNotFoundError:
            return False

    def unlink(self) -> None:
        """Remove the object and everything below it."""
        for path, _ in [*self.below(), (self, 0)]:
            path._ask("delete")

    def iterdir(self) -> Iterator[ObjectPath]:
        """Direct children: objects, and names with objects below them."""
        prefix = f"{self.key}/" if self.key else ""
        found = _request(self, lambda: self._module.list_with_delimiter(self._client, prefix or None))
        names = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return (ObjectPath(self.root, name.strip("/")) for name in names)

    def below(self) -> list[tuple[ObjectPath, int]]:
        """All objects below, with their sizes in bytes."""
        prefix = f"{self.key}/" if self.key else None
        # Retried as a whole: an interrupted listing cannot be continued, and is incomplete.
        entries = _request(self, lambda: [entry for page in self._module.list(self._client, prefix) for entry in page])
        return [(ObjectPath(self.root, entry["path"]), entry["size"]) for entry in entries]

    def _ask(self, method: str, *args: Any, then: Callable[[Any], Any] = lambda answer: answer, **options: Any) -> Any:
        return _request(self, lambda: then(getattr(self._module, method)(self._client, self.key, *args, **options)))

    @property
    def _module(self) -> Any:
        return _library()

    @property
    def _client(self) -> Any:
        return _connect(self.root)


Location = Path | ObjectPath


def location(text: str) -> Location:
    """Parse the location of a cache: a local path, or a URL of object storage.

    In a file URL, ``%20`` is a space, as in `Path.as_uri`. Elsewhere ``%20`` is three characters.
    Raises UsageError for an empty text and for ambiguous URLs.
    """
    if not text:
        raise UsageError("an empty text is not a location", expected="a path, or s3://bucket/folder")
    if re.match(r"(file|memory|s3a?|gs|az|adl|abfss?|azure|https?):(?!//)", text, re.IGNORECASE):
        raise _unusable(text, "no // after the colon", "file:///folder, s3://bucket/folder, or ./ before a local name")
    if not text.lower().startswith("file://"):
        return ObjectPath.parse(text) if "://" in text else Path(text)
    host, slash, path = text[len("file://") :].partition("/")
    if host not in ("", "localhost") or not slash:
        raise _unusable(
            text, f"{host!r} as the host", "file:///folder with an absolute path; or a path without file://"
        )
    return Path(unquote("/" + path))


def local_path(text: str) -> Path:
    """Parse a path of this machine. Raises UsageError for any other location."""
    place = location(text)
    if not isinstance(place, Path):
        raise UsageError(f"{text} is not on this machine", expected="a local path", hint="copy it here first")
    return place


def _unusable(text: str, found: str, expected: str) -> UsageError:
    return UsageError(f"{text} is not a valid location", expected=expected, found=found)


def _request(where: ObjectPath, work: Callable[[], Result]) -> Result:
    """Call ``work``, with retries for failures that may be temporary.

    FileNotFoundError is passed on; other failures raise CacheError.
    """
    from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

    if _first_process() != os.getpid():  # a fork lacks the library's threads and would wait forever
        raise CacheError(
            f"{where}: object storage cannot be read in a forked process",
            hint="multiprocessing_context='spawn', or threads",
        )
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            final = isinstance(error, InvalidPathError | PermissionDeniedError | UnauthenticatedError)
            if final or attempt == ATTEMPTS - 1:
                raise CacheError(
                    f"{where}: object storage request failed",
                    found=" ".join(str(error).split())[:300],
                    tried=f"{attempt + 1} times",
                    hint="check the address, the access keys and the connection, then repeat the command",
                ) from None
            time.sleep(PAUSE_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def _library() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise UsageError("a cache in object storage needs the obstore library", hint=install("s3")) from None
    return obstore


@lru_cache(None)
def _connect(root: str) -> Any:
    """One client per bucket. Its connections and threads are not usable in a forked process."""
    try:
        if root.startswith("memory://"):
            return _library().store.MemoryStore()
        return _library().store.from_url(
            root,
            client_options={
                "timeout": timedelta(seconds=SLOWEST_SECONDS),
                "allow_http": True,  # for http:// addresses
            },
            retry_config={"max_retries": SERVER_RETRIES, "retry_timeout": timedelta(seconds=PATIENCE_SECONDS)},
        )
    except (ValueError, _library().exceptions.BaseError) as error:
        raise UsageError(f"{root} cannot be opened", found=" ".join(str(error).split())[:300]) from None


@lru_cache(1)
def _first_process() -> int:
    """Id of the process that first accessed object storage. Forks of it keep this id and are refused."""
    return os.getpid()
