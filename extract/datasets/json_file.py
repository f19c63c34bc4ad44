"""Read a JSON annotation file: gzipped or not, in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from ...errors import AnnotationError

GZIP = b"\x1f\x8b"
OTHER_ARCHIVES = {b"PK\x03\x04": "a ZIP archive", b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive"}


def read_json(file: Path, *, repeated_keys: bool = False) -> tuple[Any, str]:
    """The content of a JSON file, and the SHA-256 of its unpacked bytes.

    A repeated key in an object is an error, unless ``repeated_keys`` disables this check; large files are read faster
    without it. Raises AnnotationError with line and column for malformed JSON.
    """
    content = unpacked(file)
    try:
        value = json.loads(text_of(file, content), object_pairs_hook=None if repeated_keys else _distinct)
    except _RepeatedKey as error:
        raise AnnotationError(file, None, "", f"the key {error.args[0]!r} occurs twice in one object") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        start = content[:60].decode("utf-8", "replace") if content.strip() else "an empty file"
        raise AnnotationError(
            file,
            None,
            where,
            f"not JSON: {error.msg}",
            found=f"a file that starts with {start!r}",
            hint="fetch it again",
        ) from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(file, None, "", "not JSON that can be read", found=error) from None
    return value, hashlib.sha256(content).hexdigest()


def unpacked(file: Path, kind: str = "JSON") -> bytes:
    """The unpacked bytes of a file, gzipped or not. ``kind``: the expected format. Raises AnnotationError."""
    if file.is_dir():
        raise AnnotationError(file, None, "", "a folder", expected=f"a file of {kind}", hint="name the file in it")
    try:
        raw = file.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == GZIP else raw
    except (OSError, EOFError, zlib.error) as error:
        raise AnnotationError(file, None, "", "cannot be read", found=error, hint="fetch the file again") from None
    for mark, name in OTHER_ARCHIVES.items():
        if content.startswith(mark):
            raise AnnotationError(
                file, None, "", f"{name}, not {kind}", expected=f"{kind}, or gzipped", hint="unpack it"
            )
    return content


def text_of(file: Path, content: bytes, kind: str = "JSON") -> str:
    """The text of a file. JSON may contain lone surrogates: the check of the field that holds one reports it."""
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding, "surrogatepass" if kind == "JSON" else "strict")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise AnnotationError(
            file,
            None,
            f"line {line}",
            f"not {kind}: not even text that can be read",
            expected="UTF-8, UTF-16 or UTF-32",
            found=f"{content[error.start : error.start + 8]!r} in {encoding.upper()}",
            hint="save the file as UTF-8",
        ) from None


class _RepeatedKey(Exception):
    pass


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return values
