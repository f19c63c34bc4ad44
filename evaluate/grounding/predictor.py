"""Sentences about one video → tubes. A head and its encoders are loaded once and answer any number of questions.

The features of a video are stored in a cache and reused by later questions. This is the cache of an extraction (`stvg
extract`), or a folder with one cache per content of a video file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ...atomic import make_folder, publish, remove, sweep, temporary_name
from ...cache.annotations import AnnotationSet
from ...cache.index import Cache
from ...cache.schema import Sample, Video
from ...errors import CacheError
from ...extract.encoders.backbone import Backbone, build_backbone
from ...extract.encoders.text import build_text_encoder
from ...extract.runner import Options, extract, library_versions
from ...extract.sentences import write_text
from ...heads.decision import moments
from ...objects import HEADER, Location
from ...options import choose_device
from ...outputs import naming_write_errors, writable_folder
from ..evaluation import Head, load_head, open_split, readings_of, require_features
from .answers import Answer, Grounding
from .request import Ground, Question
from .videos import clock_when_known, content_of, find_video, looked_at, require_same_file, video_of

SPLIT = "asked"
UNTRAINED = "tiny"
"""Name of the encoders with random weights."""
FEW_WORDS = 100
"""Training sentences with fewer different words are artificial, such as those of the synthetic shapes."""


class Predictor:
    """A head with its encoders. ``encoders``: weights, tokenizer and seed as for `stvg extract`.

    ``features``: where the features of videos are read and stored; see `features_of`. Raises CacheError if the text
    encoder is not the one the head was trained on. The visual encoder is checked when a video is first extracted.
    """

    def __init__(self, head: Head, encoders: Mapping[str, Any], features: Location, device: torch.device) -> None:
        self.head, self.encoders, self.features, self.device = head, encoders, features, device
        last = head.recipe.visual.last_levels
        self.recipe = replace(
            head.recipe,
            keep="full" if head.mode == "last-stage" or head.model.head.memory_level not in last else "last",
            views=1,
            views_seed=0,
        )
        """Recipe of extractions made here: everything that the head's features depend on, and nothing of its dataset.
        """
        weights, tokenizer, seed = (encoders[name] for name in ("text_weights", "tokenizer", "weights_seed"))
        self.text = build_text_encoder(encoders.get("text_encoder") or head.recipe.text.name, weights, tokenizer, seed)
        found = replace(head.recipe, text=replace(head.recipe.text, sha256=self.text.sha256))
        require_features(head, found, "the text encoder named here")

    @property
    def reads_extraction(self) -> bool:
        """Whether features are read from the cache of an extraction. Then nothing is extracted."""
        return (self.features / HEADER).exists()

    @cached_property
    def backbone(self) -> Backbone:
        """The visual encoder, built when a video is first extracted.

        Raises CacheError if it is not the one the head was trained on.
        """
        recipe, encoders = self.head.recipe, self.encoders
        backbone = build_backbone(
            encoders.get("backbone") or recipe.visual.name, encoders["backbone_weights"], encoders["weights_seed"]
        )
        found = replace(recipe, visual=replace(recipe.visual, sha256=backbone.sha256))
        require_features(self.head, found, "the backbone named here")
        return backbone

    def require_backbone(self) -> None:
        """Build the visual encoder now if a video may need it, so that a wrong one is refused before any question."""
        if not self.reads_extraction:
            _ = self.backbone

    def ground(self, question: Question, count: int = 1) -> Grounding:
        """Find the ``count`` likeliest moments of every sentence of a question.

        Raises VideoError if the file does not decode completely, and CacheError if the stored features were made for
        another head or do not cover the whole video.
        """
        file, head = question.file, self.head
        cache, video, end = self.features_of(file)
        clock = clock_when_known(cache, video, file)
        require_same_file(cache, video, file)
        video = replace(video, path=file.name)
        samples = [asked(number, video, sentence, end) for number, sentence in enumerate(question.sentences, start=1)]
        with TemporaryDirectory(prefix="stvg-") as scratch:
            words = Cache.create(Path(scratch), cache.recipe, "zarr", library_versions())
            words = words.seen_through(AnnotationSet.of(SPLIT, cache.annotations.dataset, samples))
            write_text(words, self.text, Options(self.device))
            data = open_split(head, cache.with_samples_of(words), SPLIT, file.parent)
            readings = readings_of(head.model, data, head.batch_size, self.device, attention=False)
            found = {reading.tube.sample_id: (reading.tube, moments(reading, count)) for reading in readings}
        answers = [Answer(sample.sentence, *found[sample.sample_id]) for sample in samples]
        doubts = self.doubts(question, video, clock.end if clock else None)
        return Grounding(replace(video, video_id=question.shown), answers, clock, file, doubts)

    def doubts(self, question: Question, video: Video, seconds: float | None) -> list[str]:
        """Why a score may mean nothing here, as lines to print: how the question differs from the training data."""
        head = self.head
        untrained = UNTRAINED in (head.recipe.visual.name, head.recipe.text.name)
        unlike = head.seen.unlike(video, seconds, question.sentences) if head.seen else []
        if not unlike and (head.seen or not untrained):
            return []
        few = head.seen is not None and len(head.seen.words.split()) < FEW_WORDS
        means = "mean nothing" if untrained or few else "may mean nothing"
        lines = [f"{question.shown} is unlike what this head was trained on: the scores {means} here"]
        lines += [f"  asked      {line}" for line in unlike]
        lines += [f"  trained on {head.seen or 'a dataset that its checkpoint does not describe'}"]
        lines += [f"  encoder    {UNTRAINED}, with random weights: for demos and tests"] if untrained else []
        return lines

    def features_of(self, file: Path) -> tuple[Cache, Video, int]:
        """A cache with the features of a video, the video's facts in it, and the frame at which the features end.

        The cache of an extraction identifies a video by the path of its file, and is not changed. Otherwise there is
        one cache per file content and recipe; it is made if it does not exist.
        """
        if self.reads_extraction:
            cache = Cache.open(self.features)
            require_features(self.head, cache.recipe, cache.path)
            annotations, video = find_video(cache, file)
            return cache.seen_through(annotations), video, looked_at(cache, video, file)
        if not isinstance(self.features, Path):
            raise CacheError(
                f"{self.features} is not a cache of stvg extract", effect="others are kept in local folders only"
            )
        content = content_of(file)
        place = self.features / f"{content}-{self.recipe.fingerprint}"
        if not place.exists():
            self.extract(file, content, self.features, place)
        cache = Cache.open(place)
        video = cache.samples.video(0)
        return cache, video, video.frame_count

    def extract(self, file: Path, video_id: str, folder: Path, place: Path) -> None:
        """Make the cache of one video. It appears under its name when it is complete."""
        writable_folder(folder)
        video = video_of(file, video_id, self.recipe.fps)
        backbone, options = self.backbone, Options(self.device, strict=True)
        files: dict[str, Path] = {video_id: file}
        aside = folder / temporary_name()
        with naming_write_errors(folder):
            make_folder(folder)
            sweep(folder)
            try:
                extract(
                    AnnotationSet.of(SPLIT, "json", [asked(0, video, "video", video.frame_count)]),
                    files,
                    aside,
                    self.recipe,
                    backbone,
                    self.text,
                    options=options,
                )
                with suppress(FileExistsError):  # another process has extracted the same video
                    publish(aside, place)
            finally:
                remove(aside)


@contextmanager
def open_predictor(request: Ground, head: Head | None = None) -> Iterator[Predictor]:
    """The head of a request with its encoders. ``head``: the head of the request's checkpoint, if it is already loaded.

    Raises CheckpointError, and CacheError if the encoders are not those the head was trained on.
    """
    device = choose_device(request.device)
    head = head or load_head(request.checkpoint, device, request.encoders)
    with TemporaryDirectory(prefix="stvg-") as scratch:
        yield Predictor(head, request.encoders, request.cache or Path(scratch, "features"), device)


def asked(number: int, video: Video, sentence: str, end: int) -> Sample:
    """A sample about the frames before ``end``. It has no annotation: its moment and its boxes are empty."""
    return Sample(number, video, sentence, "asked", SPLIT, (0, end), (0, 0), np.empty((0, 4)), "")
