"""Some sentences about one video → tubes. A head and its encoders are made ready once and asked as often as one likes.

The features of a video are kept in a cache and read there the next time: that of an extraction (`stvg extract`), or a
folder with one cache for every content of a video file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..atomic import make_folder, publish, remove, sweep, temporary_name
from ..cache.annotations import AnnotationSet
from ..cache.index import Cache
from ..cache.sampling import video_grid
from ..cache.schema import Sample, Video
from ..cache.set_files import read_set, set_names
from ..errors import CacheError, UsageError, VideoError
from ..extract.encoders.backbone import Backbone, build_backbone
from ..extract.encoders.text import build_text_encoder
from ..extract.runner import Options, extract, library_versions
from ..extract.sentences import write_text
from ..extract.video.agreement import rate_is_assumed
from ..extract.video.clock import Clock
from ..extract.video.decode import clock_of, probe
from ..objects import HEADER, Location
from ..outputs import naming_write_errors, writable_folder
from .evaluation import Head, open_split, require_features, tubes_of
from .grounding import Grounding

SPLIT = "asked"
HINT = "without --cache, or with a folder of its own, the video is extracted now"


class Predictor:
    """A head with its encoders. ``encoders``: weights, tokenizer and seed as for `stvg extract`.

    ``features``: where the features of videos are found and kept; see `features_of`. Raises CacheError when the text
    encoder is not the one the head was trained on; of the backbone the same is said when a video is first extracted.
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
        """Of what is extracted here: all that the head's features depend on, and nothing of its dataset."""
        weights, tokenizer, seed = (encoders[name] for name in ("text_weights", "tokenizer", "weights_seed"))
        self.text = build_text_encoder(encoders.get("text_encoder") or head.recipe.text.name, weights, tokenizer, seed)
        found = replace(head.recipe, text=replace(head.recipe.text, sha256=self.text.sha256))
        require_features(head, found, "the text encoder named here")

    @property
    def reads_extraction(self) -> bool:
        """Whether features are those of an extraction; nothing is extracted then."""
        return (self.features / HEADER).exists()

    @cached_property
    def backbone(self) -> Backbone:
        """Built when a video is first extracted. Raises CacheError when it is not the one the head was trained on."""
        recipe, encoders = self.head.recipe, self.encoders
        backbone = build_backbone(
            encoders.get("backbone") or recipe.visual.name, encoders["backbone_weights"], encoders["weights_seed"]
        )
        found = replace(recipe, visual=replace(recipe.visual, sha256=backbone.sha256))
        require_features(self.head, found, "the backbone named here")
        return backbone

    def require_backbone(self) -> None:
        """Build the backbone now if a video may need it, so that a wrong one is refused before anybody asks."""
        if not self.reads_extraction:
            _ = self.backbone

    def ground(self, file: Path, sentences: Sequence[str], name: str | None = None) -> Grounding:
        """Find what every sentence means. ``name``: what the answers call the video.  [the file's name]

        Raises UsageError for a sentence that says nothing, VideoError for a file that does not decode whole, CacheError
        when the features there are were made for another head or are not of the whole video.
        """
        require_words(sentences)
        cache, video, end = self.features_of(file)
        clock = clock_when_known(cache, video, file)
        require_same_file(cache, video, file)
        video = replace(video, path=file.name)
        samples = [asked(number, video, sentence, end) for number, sentence in enumerate(sentences, start=1)]
        with TemporaryDirectory(prefix="stvg-") as scratch:
            words = Cache.create(Path(scratch), cache.recipe, "zarr", library_versions())
            words = words.seen_through(AnnotationSet.of(SPLIT, cache.annotations.dataset, samples))
            write_text(words, self.text, Options(self.device))
            data = open_split(self.head, cache.with_samples_of(words), SPLIT, file.parent)
            tubes = tubes_of(self.head.model, data, self.head.batch_size, self.device)
        video = replace(video, video_id=name or file.name)
        named = [replace(sample, video=video) for sample in samples]
        return Grounding(video, named, [tubes[s.sample_id] for s in samples], clock, file)

    def features_of(self, file: Path) -> tuple[Cache, Video, int]:
        """A cache that holds the features of a video, the video as that cache knows it, and the frame they reach up to.

        In the cache of an extraction a video is known by where its file lies, and nothing is added. Elsewhere there is a
        cache for every content of a file and recipe, made now unless it was before.
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
        """Make the cache of one video, which appears under its name once it is whole."""
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


def asked(number: int, video: Video, sentence: str, end: int) -> Sample:
    """A sample about the frames before ``end``, without an annotation: its moment is empty, and so are its boxes."""
    return Sample(number, video, sentence, "asked", SPLIT, (0, end), (0, 0), np.empty((0, 4)), "")


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
    """What a file turns out to be, every frame of it decoded. ``fps``: what a head wants to see of it.

    The rate is the average one. With pauses it may be below ``fps``; then it is that of most frames.
    """
    facts = probe(file)
    rate = facts.fps if facts.fps >= fps else 1 / facts.clock.step
    if rate < fps:
        raise VideoError(
            f"{file} has too few frames a second", expected=f"at least the head's {fps:g}", found=f"{rate:.4g}"
        )
    return Video(video_id, file.name, facts.width, facts.height, rate, facts.frames)


def clock_when_known(cache: Cache, video: Video, file: Path) -> Clock | None:
    """When the frames of a video are shown: by its file, or else by its annotation, or None where that assumes a rate.

    Raises VideoError when the file has another number of frames than the video.
    """
    if file.exists():
        return clock_of(file, video.frame_count)
    return None if rate_is_assumed(cache.annotations.dataset) else Clock.steady(video.frame_count, video.fps)


def find_video(cache: Cache, file: Path) -> tuple[AnnotationSet, Video]:
    """The video of an extraction's cache whose file this is, and an annotation set that names it: the file ends as the
    annotation's path does.

    Raises CacheError when there is none, it was skipped, or there are several.
    """
    holders: dict[str, AnnotationSet] = {}
    paths: dict[str, str] = {}
    for name in set_names(cache.path):
        table = (annotations := read_set(cache.path, name)).samples
        for video_id, rows in table.rows_of_videos.items():
            if video_id not in annotations.files or cache.seen_through(annotations).means(video_id):
                holders[video_id], paths[video_id] = annotations, table.video(rows[0]).path
    ours, ends = file.absolute().parts, {video_id: PurePosixPath(path).parts for video_id, path in paths.items()}
    known = [v for v, end in ends.items() if ours[-len(end) :] == end and cache.unit_keys(v)]
    if len(known) != 1:
        alike = known or [v for v, end in ends.items() if ours[-1] == end[-1]]
        raise CacheError(
            f"{cache.path} does not hold {file}" if not known else f"{cache.path} holds several videos {file} could be",
            expected=f"one of its {len(ends):,} videos, in folders named as in the dataset",
            found=", ".join(paths[v] for v in alike[:4]) or None,
            hint=HINT,
        )
    table = (annotations := holders[known[0]]).samples
    return annotations, table.video(table.rows_of_videos[known[0]][0])


def require_same_file(cache: Cache, video: Video, file: Path) -> None:
    """Refuse features of another file than the one that is there, if any; older units do not say. Raises CacheError."""
    recorded = cache.unit(video.video_id).source
    if recorded and file.exists() and content_of(file) != recorded["sha256"][:16]:
        raise CacheError(
            f"{cache.path} holds the features of another file than {file}",
            expected=f"{recorded['bytes']:,} bytes, SHA-256 {recorded['sha256'][:16]}…",
            found=f"{file.stat().st_size:,} bytes, SHA-256 {content_of(file)}…",
            hint=HINT,
        )


def looked_at(cache: Cache, video: Video, file: Path) -> int:
    """The frame that an extraction's features of a video reach up to: its end, or the last frame that would be looked at.

    That one is lacking where annotated segments end before the last frame. Raises CacheError when more is.
    """
    whole = video_grid([(0, video.frame_count)], video.fps, cache.recipe.fps)
    lacking = np.setdiff1d(whole, cache.unit(video.video_id).frames)
    if not lacking.size:
        return video.frame_count
    if len(whole) > 1 and lacking[0] == whole[-1]:
        return int(lacking[0])
    raise CacheError(
        f"{cache.path} holds a part of {file} only",
        expected=f"{len(whole):,} frames at {cache.recipe.fps:g} a second",
        found=f"all but {len(lacking):,} of them, such as {lacking[0]}",
        effect="a tube could not lie there; nothing was predicted",
        hint=HINT,
    )
