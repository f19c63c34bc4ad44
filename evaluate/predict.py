"""Some sentences about one video → tubes. A head and its encoders are made ready once and asked as often as one likes.

The features of a video are kept in a cache and read there the next time: that of an extraction (`stvg extract`), or a
folder with one cache for every content of a video file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..cache.atomic import make_folder, publish, remove, sweep, temporary_name
from ..cache.errors import CacheError, UsageError, VideoError
from ..cache.header import HEADER
from ..cache.index import Cache, video_key
from ..cache.sampling import video_grid
from ..cache.schema import Sample, Tube, Video
from ..extract.backbone import Backbone, build_backbone
from ..extract.decode import probe
from ..extract.runner import Options, extract, library_versions, write_text
from ..extract.text import build_text_encoder
from ..extract.writer import naming_write_errors
from .evaluation import Head, open_split, require_features, tubes_of
from .predictions import write_predictions

SPLIT = "asked"


@dataclass(frozen=True)
class Grounding:
    """What was asked of a video, and the answers in the same order."""

    video: Video
    samples: list[Sample]
    tubes: list[Tube]

    def write(self, out: Path) -> Path:
        """The tubes as ``out``/predictions.jsonl; the folder is made."""
        out.mkdir(parents=True, exist_ok=True)
        write_predictions(out / "predictions.jsonl", self.tubes, {s.sample_id: s for s in self.samples})
        return out / "predictions.jsonl"


class Predictor:
    """A head with its encoders. ``encoders``: weights, tokenizer and seed as for `stvg extract`.

    ``features``: where the features of videos are found and kept; see `features_of`. Raises CacheError when the text
    encoder is not the one the head was trained on; of the backbone the same is said when a video is first extracted.
    """

    def __init__(self, head: Head, encoders: Mapping[str, Any], features: Path, device: torch.device) -> None:
        self.head, self.encoders, self.features, self.device = head, encoders, features, device
        self.recipe = replace(
            head.recipe,
            dataset="json",
            annotations_sha256=hashlib.sha256().hexdigest(),
            levels="full" if head.mode == "last-stage" else "c5",
            views=1,
            views_seed=0,
        )
        """Of what is extracted here: all that the head's features depend on, and nothing of its dataset."""
        weights, tokenizer, seed = (encoders[name] for name in ("text_weights", "tokenizer", "weights_seed"))
        self.text = build_text_encoder(head.recipe.text_encoder, weights, tokenizer, seed)
        found = replace(head.recipe, text_sha256=self.text.weights_sha256)
        require_features(head, found, "the text encoder named here")

    @property
    def reads_extraction(self) -> bool:
        """Whether features are those of an extraction; nothing is extracted then."""
        return (self.features / HEADER).exists()

    @cached_property
    def backbone(self) -> Backbone:
        """Built when a video is first extracted. Raises CacheError when it is not the one the head was trained on."""
        recipe, encoders = self.head.recipe, self.encoders
        backbone = build_backbone(recipe.backbone, encoders["backbone_weights"], encoders["weights_seed"])
        found = replace(recipe, backbone_sha256=backbone.weights_sha256)
        require_features(self.head, found, "the backbone named here")
        return backbone

    def require_backbone(self) -> None:
        """Build the backbone now if a video may need it, so that a wrong one is refused before anybody asks."""
        if not self.reads_extraction:
            _ = self.backbone

    def ground(self, file: Path, sentences: Sequence[str]) -> Grounding:
        """Find what every sentence means.

        Raises UsageError for a sentence that says nothing, VideoError for a file that does not decode whole, CacheError
        when the features there are were made for another head or are not of the whole video.
        """
        require_words(sentences)
        cache, video = self.features_of(file)
        video = replace(video, path=file.name)
        samples = [asked(number, video, sentence) for number, sentence in enumerate(sentences, start=1)]
        with TemporaryDirectory(prefix="stvg-") as scratch:
            words = Cache.create(Path(scratch), cache.recipe, samples, "zarr", library_versions())
            write_text(words, samples, self.text, Options(self.device))
            data = open_split(self.head, cache.with_samples_of(words), SPLIT, file.parent)
            tubes = tubes_of(self.head.model, data, self.head.batch_size, self.device)
        return Grounding(video, samples, [tubes[s.sample_id] for s in samples])

    def features_of(self, file: Path) -> tuple[Cache, Video]:
        """A cache that holds the features of a video, and the video as that cache knows it.

        In the cache of an extraction a video is known by where its file lies, and nothing is added. Elsewhere there is a
        cache for every content of a file and recipe, made now unless it was before.
        """
        if self.reads_extraction:
            cache = Cache.open(self.features)
            require_features(self.head, cache.recipe, cache.path)
            return cache, find_video(cache, file)
        content = content_of(file)
        place = self.features / f"{content}-{self.recipe.fingerprint}"
        if not place.exists():
            self.extract(file, content, place)
        cache = Cache.open(place)
        return cache, cache.samples.video(0)

    def extract(self, file: Path, video_id: str, place: Path) -> None:
        """Make the cache of one video, which appears under its name once it is whole."""
        video = video_of(file, video_id, self.recipe.fps)
        backbone, options = self.backbone, Options(self.device, strict=True)
        files: dict[str, Path | None] = {video_id: file}
        aside = self.features / temporary_name()
        with naming_write_errors(self.features):
            make_folder(self.features)
            sweep(self.features)
            try:
                extract([asked(0, video, "")], files, aside, self.recipe, backbone, self.text, options=options)
                with suppress(FileExistsError):  # somebody else asked of the same video
                    publish(aside, place)
            finally:
                remove(aside)


def require_words(sentences: Sequence[str]) -> None:
    """Refuse what cannot be looked for: UsageError."""
    for number, sentence in enumerate(sentences, start=1):
        if not sentence.strip():
            raise UsageError(f"sentence {number} is empty", expected="what to look for, in words")
        if any("\ud800" <= letter <= "\udfff" for letter in sentence):
            raise UsageError(f"sentence {number} is no text", found="bytes that are not UTF-8, or half a character")


def asked(number: int, video: Video, sentence: str) -> Sample:
    """A sample without an annotation: its moment is empty, and so are its boxes."""
    return Sample(number, video, sentence, "asked", SPLIT, (0, video.frame_count), (0, 0), np.empty((0, 4)), "")


def content_of(file: Path) -> str:
    """Names what a file holds: 16 hex digits."""
    if not file.is_file():  # what is no file may never end
        raise VideoError(f"{file} is not a file")
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    except OSError as error:
        raise VideoError(f"{file} cannot be read", found=error.strerror) from None


def video_of(file: Path, video_id: str, fps: float) -> Video:
    """What a file turns out to be, every frame of it decoded. ``fps``: what a head wants to see of it."""
    facts = probe(file)
    if facts.fps < fps:
        raise VideoError(
            f"{file} has too few frames a second", expected=f"at least the head's {fps:g}", found=f"{facts.fps:g}"
        )
    return Video(video_id, file.name, facts.width, facts.height, facts.fps, facts.frames)


def find_video(cache: Cache, file: Path) -> Video:
    """The video of an extraction's cache whose file this is, by the end of its path: annotations know no more of a file.

    Raises CacheError when there is none, it was skipped, or only some of its segments were extracted.
    """
    table, ours = cache.samples, file.absolute().parts
    paths = dict(zip(table.video_ids, table.columns["path"], strict=True))
    ends = {video_id: PurePosixPath(path.as_py()).parts for video_id, path in paths.items()}
    known = [v for v, end in ends.items() if ours[-len(end) :] == end and cache.store.contains(video_key(v))]
    hint = "without --cache, or with a folder of its own, the video is extracted now"
    if len(known) != 1:
        raise CacheError(
            f"{cache.path} does not hold {file}" if not known else f"{cache.path} holds several videos {file} could be",
            expected=f"one of its {len(ends):,} videos, in folders named as in the dataset",
            found=", ".join(known[:4]) or None,
            hint=hint,
        )
    video = table.video(table.video_ids.index(known[0]))
    whole = video_grid([(0, video.frame_count)], video.fps, cache.recipe.fps)
    lacking = np.setdiff1d(whole, cache.unit(video.video_id).frames)
    if lacking.size:
        raise CacheError(
            f"{cache.path} holds a part of {file} only",
            expected=f"{len(whole):,} frames at {cache.recipe.fps:g} a second",
            found=f"all but {len(lacking):,} of them, such as {lacking[0]}",
            effect="a tube could not lie there; nothing was predicted",
            hint=hint,
        )
    return video
