"""The writing thread: it writes encoded frames to the store while the next ones are encoded."""

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
from .features import select_levels
from .pending import PendingVideo

AHEAD = 2
"""Encoded batches that may wait to be written."""


@dataclass(frozen=True)
class Encoded:
    """An encoded batch: levels (n, C, h, w), and the pieces of videos in it. ``done``: GPU event after the encoding."""

    pieces: list[Piece]
    levels: dict[str, Tensor]
    done: torch.cuda.Event | None = None


class Writer:
    """Stores batches in order, and commits a video when its last frame is stored.

    The next call raises an error of the thread. On exit, videos that are not committed are discarded.
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.cache = cache
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" and torch.cuda.is_available() else None
        """CUDA stream that selects and copies features during the encoding of later batches."""
        self.finished: Queue[tuple[PendingVideo, VideoError | None]] = Queue()
        """Committed videos (error None), and videos whose file changed during decoding."""
        self.forestalled: Queue[PendingVideo] = Queue()
        """Videos whose unit another extractor wrote meanwhile, perhaps for other annotations."""
        self.fetching = self.writing = 0.0
        """Seconds spent on fetching features from the device, and on writing them."""
        self._given: Queue[Encoded | PendingVideo | None] = Queue(AHEAD)
        self._open: list[PendingVideo] = []
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
        """Queue a batch; blocks while AHEAD batches wait."""
        if self.stream is not None:
            encoded = replace(encoded, done=torch.cuda.current_stream(self.stream.device).record_event())
        self._hand_over(encoded)

    def give_up(self, pending: PendingVideo) -> None:
        """Discard what was written of a video."""
        pending.failed = True
        self._hand_over(pending)

    def _hand_over(self, item: Encoded | PendingVideo) -> None:
        if self._error is not None:
            raise self._error
        self._given.put(item)

    def _work(self) -> None:
        while (item := self._given.get()) is not None:
            if self._error is None:
                self._attempt(item)
        for pending in list(self._open):
            self._attempt(pending)

    def _attempt(self, item: Encoded | PendingVideo) -> None:
        try:
            with naming_write_errors(self.cache.path):
                if isinstance(item, PendingVideo):
                    self._close(item)
                else:
                    with self._after(item):
                        for piece in item.pieces:
                            if not piece.owner.failed:
                                self._store(piece, item.levels)
        except Exception as error:  # raised in the extractor's thread
            self._error = self._error or error

    @contextmanager
    def _after(self, encoded: Encoded) -> Iterator[None]:
        """Run the body on this thread's CUDA stream, after the batch has been encoded."""
        if self.stream is None or encoded.done is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(encoded.done)
            for level in encoded.levels.values():
                level.record_stream(self.stream)
            yield

    def _store(self, piece: Piece, levels: dict[str, Tensor]) -> None:
        pending, recipe = piece.owner, self.cache.recipe
        start = time.perf_counter()
        part = {name: level[piece.at : piece.at + piece.count] for name, level in levels.items()}
        mapped = pending.mapped[piece.start : piece.start + piece.count]
        stored = select_levels(part, recipe, pending.regions[piece.view].within(piece.start, piece.count), mapped)
        if piece.view == 0:
            pending.count_in(part, recipe, mapped)
        fetched = time.perf_counter()
        features = pending.features or self._declare(pending)
        for level, block in stored.items():
            name = array_name(level, piece.view)
            features.append(name, block, f"{name} of video {pending.video_id}")
        pending.missing -= piece.count
        if not pending.missing:
            self._commit(pending, features)
        self.fetching += fetched - start
        self.writing += time.perf_counter() - fetched

    def _commit(self, pending: PendingVideo, features: FeatureWriter) -> None:
        try:
            for level, sums in pending.sums.items():
                features.unit.append(sums_of(level), sums)
            written = features.unit.commit(pending.attributes(self.cache.recipe.fingerprint))
        except VideoError as error:
            self.finished.put((pending, error))
        else:
            if written:
                self.finished.put((pending, None))
            else:
                self.forestalled.put(pending)
        self._close(pending)

    def _declare(self, pending: PendingVideo) -> FeatureWriter:
        unit = pending.opened.enter_context(self.cache.store.writer(pending.key))
        features = pending.features = FeatureWriter(unit, self.cache.recipe.dtype)
        self._open.append(pending)
        for name, shape in pending.layout(self.cache.recipe).items():
            features.add(name, shape, rows_of(name))
        for level in self.cache.recipe.levels if pending.mapped.any() else ():
            unit.add(sums_of(level.name), (2, level.channels), np.float64)
        if self.cache.recipe.keeps_regions:
            unit.add(REGIONS, pending.wanted.shape, pending.wanted.dtype, {ROWS: "region"})
            unit.append(REGIONS, pending.wanted)
        return features

    def _close(self, pending: PendingVideo) -> None:
        if pending in self._open:
            self._open.remove(pending)
            pending.opened.close()
