"""The writing thread: what is encoded goes to the store while the next frames are encoded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Queue
from threading import Thread

import numpy as np
import torch
from torch import Tensor

from ..cache.arrays import array_name, rows_of, sums_of
from ..cache.index import Cache
from ..cache.stores.quantise import FeatureWriter
from ..cache.stores.unit import ROWS
from ..cache.video_unit import REGIONS
from ..errors import VideoError
from ..outputs import naming_write_errors
from .batches import Piece
from .clip import Clip
from .features import select_levels

AHEAD = 2
"""Encoded batches that may wait to be written."""


@dataclass(frozen=True)
class Encoded:
    """A batch's levels, (n, C, h, w) each, and whose frames they are of. ``done``: on a GPU, when they are computed."""

    pieces: list[Piece]
    levels: dict[str, Tensor]
    done: torch.cuda.Event | None = None


class Writer:
    """Stores batches in the order they are given, and commits every clip whose last frame was stored.

    An error of the thread is raised by the next call. On leaving, what is not committed is given up.
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache = cache
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" and torch.cuda.is_available() else None
        """Features are selected and fetched beside the encoding of later batches."""
        self.finished: Queue[tuple[Clip, VideoError | None]] = Queue()
        """Clips that are in the cache for good, or whose file changed while it was read."""
        self.forestalled: Queue[Clip] = Queue()
        """Clips whose unit another extractor wrote meanwhile, perhaps for other annotations."""
        self.fetching = self.writing = 0.0
        """Seconds spent waiting for features, and on writing them."""
        self._given: Queue[Encoded | Clip | None] = Queue(AHEAD)
        self._open: list[Clip] = []
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="write", daemon=True)
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._given.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def write(self, encoded: Encoded) -> None:
        """Returns at once, or once there is room."""
        if self.stream is not None:
            encoded = replace(encoded, done=torch.cuda.current_stream(self.stream.device).record_event())
        self._hand_over(encoded)

    def give_up(self, clip: Clip) -> None:
        """Nothing of this clip shall remain."""
        clip.failed = True
        self._hand_over(clip)

    def _hand_over(self, item: Encoded | Clip) -> None:
        if self._error is not None:
            raise self._error
        self._given.put(item)

    def _work(self) -> None:
        while (item := self._given.get()) is not None:
            if self._error is None:
                self._attempt(item)
        for clip in list(self._open):
            self._attempt(clip)

    def _attempt(self, item: Encoded | Clip) -> None:
        try:
            with naming_write_errors(self.cache.path):
                if isinstance(item, Clip):
                    self._close(item)
                else:
                    with self._after(item):
                        for piece in item.pieces:
                            if not piece.clip.failed:
                                self._store(piece, item.levels)
        except Exception as error:  # raised again where the extractor sees it
            self._error = self._error or error

    @contextmanager
    def _after(self, encoded: Encoded) -> Iterator[None]:
        """Work that begins when a batch is encoded, on this thread's own stream."""
        if self.stream is None or encoded.done is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(encoded.done)
            for level in encoded.levels.values():
                level.record_stream(self.stream)
            yield

    def _store(self, piece: Piece, levels: dict[str, Tensor]) -> None:
        clip, recipe = piece.clip, self.cache.recipe
        start = time.perf_counter()
        part = {name: level[piece.at : piece.at + piece.count] for name, level in levels.items()}
        mapped = clip.mapped[piece.start : piece.start + piece.count]
        stored = select_levels(part, recipe, clip.regions[piece.view].within(piece.start, piece.count), mapped)
        if piece.view == 0:
            clip.count_in(part, recipe, mapped)
        fetched = time.perf_counter()
        features = clip.features or self._declare(clip)
        for level, block in stored.items():
            name = array_name(level, piece.view)
            features.append(name, block, f"{name} of video {clip.video_id}")
        clip.missing -= piece.count
        if not clip.missing:
            self._commit(clip, features)
        self.fetching += fetched - start
        self.writing += time.perf_counter() - fetched

    def _commit(self, clip: Clip, features: FeatureWriter) -> None:
        try:
            for level, sums in clip.sums.items():
                features.unit.append(sums_of(level), sums)
            written = features.unit.commit(clip.attributes(self.cache.recipe.fingerprint))
        except VideoError as error:
            self.finished.put((clip, error))
        else:
            if written:
                self.finished.put((clip, None))
            else:
                self.forestalled.put(clip)
        self._close(clip)

    def _declare(self, clip: Clip) -> FeatureWriter:
        unit = clip.opened.enter_context(self.cache.store.writer(clip.key))
        features = clip.features = FeatureWriter(unit, self.cache.recipe.dtype)
        self._open.append(clip)
        for name, shape in clip.layout(self.cache.recipe).items():
            features.add(name, shape, rows_of(name))
        for level in self.cache.recipe.levels if clip.mapped.any() else ():
            unit.add(sums_of(level.name), (2, level.channels), np.float64)
        if self.cache.recipe.keeps_regions:
            unit.add(REGIONS, clip.wanted.shape, clip.wanted.dtype, {ROWS: "region"})
            unit.append(REGIONS, clip.wanted)
        return features

    def _close(self, clip: Clip) -> None:
        if clip in self._open:
            self._open.remove(clip)
            clip.opened.close()
