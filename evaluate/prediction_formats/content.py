"""The content of a prediction file: plain or gzipped text in any Unicode encoding, or a torch file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import PredictionError

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"


def is_torch_file(path: str | Path) -> bool:
    """Whether a file starts like an archive of `torch.save`. Raises PredictionError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == ZIP
    except OSError as error:
        raise PredictionError(f"{path} cannot be read", found=error.strerror) from None


def lines_of(path: str | Path) -> Iterator[bytes | str]:
    """The lines of a text file, in a form json.loads accepts. UTF-16 and UTF-32 need no byte-order mark.

    Raises PredictionError for a file that cannot be read, a damaged gzip archive, and text in no known encoding.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                yield from _decoded(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PredictionError(f"{path} is a damaged gzip archive", found=error, hint="fetch the file again") from None
    except UnicodeError as error:
        raise PredictionError(f"{path} is not text", expected="UTF-8, UTF-16 or UTF-32", found=error) from None
    except OSError as error:
        raise PredictionError(f"{path} cannot be read", found=error.strerror or error) from None


def _decoded(file: Any) -> Iterator[bytes | str]:
    encoding = json.detect_encoding(file.peek(4)[:4])
    if encoding in ("utf-8", "utf-8-sig"):  # json.loads decodes these, so that an error names its line
        yield from file
    else:
        with io.TextIOWrapper(file, encoding=encoding, newline="\n") as text:
            yield from text


def load_torch(path: str | Path) -> Any:
    """The content of a `torch.save` file as JSON values: keys are strings, arrays are lists. Code in it is never run.

    Raises PredictionError for any other content.
    """
    import numpy as np
    import torch

    scalar = np.array(0.0)[()].__reduce__()[0]
    plain: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    plain += [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    try:
        with torch.serialization.safe_globals(plain):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        return json.loads(json.dumps(loaded, default=lambda value: value.tolist()), object_pairs_hook=without_repeats)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = "a pickle of more than numbers and texts" if isinstance(error, pickle.UnpicklingError) else error
        raise PredictionError(
            f"{path} cannot be read as a torch file",
            expected="what torch.save writes: dictionaries, lists, numbers and texts",
            found=str(why).splitlines()[0][:160],
            effect="nothing was scored",
            hint="load it where it was made, and write it with json.dump",
        ) from None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The key-value pairs of an object as a dictionary. Raises ValueError for a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found
