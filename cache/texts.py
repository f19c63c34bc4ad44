"""Token features of sentences. They are found by the sentence's hash, in any unit of ``text/``.

A unit has three arrays: ``hashes`` (n, 16) uint8, ``offsets`` (n + 1) int64 and ``hidden`` (tokens, width). The tokens
of sentence i are the rows ``offsets[i]`` to ``offsets[i + 1]`` of ``hidden``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CacheError
from .sampling import IntArray
from .stores.contract import Store

if TYPE_CHECKING:
    from torch import Tensor

PART_ROWS = 4096
"""Maximum number of sentences per unit."""
HASH_BYTES = 16
KEPT_TEXTS = 2048
"""Number of sentences with features kept in memory."""


def sentence_hashes(sentences: Iterable[str]) -> NDArray[np.uint8]:
    """The first 16 bytes of the SHA-256 of each sentence: (n, 16)."""
    digests = b"".join(hashlib.sha256(s.encode(errors="surrogatepass")).digest()[:HASH_BYTES] for s in sentences)
    return np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)


def text_key(hashes: NDArray[np.uint8]) -> str:
    """The key of a unit with the sentences of these hashes (n, 16), in this order."""
    return f"text/{hashlib.sha256(hashes.tobytes()).hexdigest()[:16]}"


@dataclass(frozen=True)
class TextIndex:
    """Unit and rows of every stored sentence."""

    keys: list[str]
    """Keys of the text units."""
    known: NDArray[np.bytes_]
    """(n,) hashes, sorted."""
    units: IntArray
    """(n,) positions in ``keys``."""
    starts: IntArray
    """(n,) first row of ``hidden``."""
    ends: IntArray
    """(n,) last row of ``hidden`` + 1."""

    @classmethod
    def of(cls, store: Store, keys: Sequence[str], fingerprint: str) -> TextIndex:
        """Read the index of some units. Raises CacheError for a unit of another recipe or a damaged unit."""
        hashes, units, starts, ends = [], [], [], []
        for number, key in enumerate(keys):
            require_recipe(store, key, store.attributes(key), fingerprint)
            offsets = store.read(key, "offsets")
            hashes.append(store.read(key, "hashes"))
            units.append(np.full(len(offsets) - 1, number))
            starts.append(offsets[:-1])
            ends.append(offsets[1:])
        flat = np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *hashes]).view(f"S{HASH_BYTES}").reshape(-1)
        order = np.argsort(flat, kind="stable")
        joined = (np.concatenate([np.empty(0, np.int64), *some])[order] for some in (units, starts, ends))
        return cls(list(keys), flat[order], *joined)

    def find(self, hashes: NDArray[np.uint8]) -> IntArray:
        """Positions of hashes (n, 16) in this index: (n,), -1 for unknown hashes."""
        wanted = hashes.view(f"S{HASH_BYTES}").reshape(-1)
        if not len(self.known):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(self.known, wanted), len(self.known) - 1)
        return np.where(self.known[at] == wanted, at, -1)


class Texts:
    """The token features of a store. Can be shared between threads."""

    def __init__(self, store: Store, fingerprint: str) -> None:
        self.store, self.fingerprint = store, fingerprint
        self._index: TextIndex | None = None
        self._texts: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.store, self.fingerprint)

    def look_again(self) -> TextIndex:
        """The index, updated with the units that other processes have added."""
        keys = self.store.keys("text")
        if self._index is None or self._index.keys != keys:
            self._index = TextIndex.of(self.store, keys, self.fingerprint)
        return self._index

    def missing(self, sentences: Sequence[str]) -> list[str]:
        """The sentences without stored features."""
        found = self.look_again().find(sentence_hashes(sentences))
        return [sentence for sentence, at in zip(sentences, found, strict=True) if at < 0]

    def read(self, sentence: str) -> Tensor:
        """Token features of a sentence: (M, width). Recent results are cached and shared, so do not modify them.

        Raises CacheError if the sentence has no stored features.
        """
        found = self._texts.get(sentence)
        if found is None:
            found = self._read(sentence)
            while len(self._texts) >= KEPT_TEXTS:
                self._texts.pop(next(iter(tuple(self._texts))), None)  # on a copy: other threads may change the dict
            self._texts[sentence] = found
        return found

    def _read(self, sentence: str) -> Tensor:
        from .stores.quantise import read_features  # imports torch, which listing a cache does not need

        wanted, index = sentence_hashes([sentence]), self._index or self.look_again()
        at = int(index.find(wanted)[0])
        if at < 0:
            index = self.look_again()
            at = int(index.find(wanted)[0])
        if at < 0:
            raise CacheError(
                f"{self.store.path} has no features of a sentence",
                sentence=sentence,
                hint="repeat stvg extract to compute the missing features",
            )
        rows = slice(int(index.starts[at]), int(index.ends[at]))
        return read_features(self.store, index.keys[index.units[at]], "hidden", rows)


def require_recipe(store: Store, key: str, attributes: Mapping[str, Any], fingerprint: str) -> None:
    """Raise CacheError if a unit's attributes name another recipe."""
    found = attributes.get("fingerprint")
    if found != fingerprint:
        raise CacheError(
            f"{store.path}: {key} was written with another recipe",
            expected=fingerprint,
            found=found,
            hint="stvg cache verify --repair",
        )
