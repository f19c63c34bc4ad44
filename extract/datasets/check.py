"""The report of `stvg dataset check`: the amount of data, and every fault, before time is spent on extraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...cache.sampling import Sampling, grid_frames
from ...cache.schema import Sample, Video
from ...errors import StvgError, UsageError, VideoError
from ...wording import counted
from ..lengths import notice_of_long_ones
from ..video.agreement import DisagreementError
from ..video.channel import CheckJob
from ..video.decoders import Decoders, End, Settings
from ..video.video_files import find_video_files, require_some
from .folders import find_splits
from .readers import Annotations, read_annotations
from .table import find


@dataclass(frozen=True)
class SplitCounts:
    """Amount of data in one split, without faulty records."""

    split: str
    records: int
    sentences: int
    videos: int
    segments: int
    """Distinct clips that are given to the model: (video, segment)."""
    qtypes: dict[str, int]
    frames_median: float
    """Median of the sampled frames per distinct clip, after thinning to ``max_frames``."""
    frames_max: int
    thinned: float
    """Fraction of distinct clips that are thinned."""

    @classmethod
    def of(cls, read: Annotations, sampling: Sampling) -> SplitCounts:
        clips = {(s.video.video_id, s.segment): s for s in read.samples}
        sampled = np.array([len(grid_frames(*s.segment, sampling.fps / s.video.fps)) for s in clips.values()])
        kept = np.minimum(sampled, sampling.max_frames)
        return cls(
            read.split,
            read.records,
            sentences=len(read.samples),
            videos=len({s.video.video_id for s in read.samples}),
            segments=len(clips),
            qtypes=dict(sorted(Counter(s.qtype for s in read.samples).items())),
            frames_median=float(np.median(kept)) if clips else 0.0,
            frames_max=int(kept.max(initial=0)),
            thinned=float((sampled > sampling.max_frames).mean()) if clips else 0.0,
        )

    def line(self) -> str:
        types = ", ".join(f"{n:,} {qtype}" for qtype, n in self.qtypes.items())
        return (
            f"{self.split:<6} {counted(self.sentences, 'sentence')} ({types or 'none'}) in "
            f"{counted(self.records, 'record')}, {counted(self.videos, 'video')}, {counted(self.segments, 'segment')}; "
            f"frames per clip: median {self.frames_median:g}, most {self.frames_max}, {self.thinned:.0%} of clips thinned"
        )


@dataclass
class CheckReport:
    """Counts per split, and all faults."""

    dataset: str
    path: Path
    splits: list[SplitCounts] = field(default_factory=list)
    faults: list[StvgError] = field(default_factory=list)
    """Only the first fault of a record: later ones are often consequences of it."""
    warnings: list[str] = field(default_factory=list)
    videos_opened: int | None = None
    """Number of videos decoded from first to last frame; None if this was not requested."""

    def lines(self) -> list[str]:
        lines = [f"{self.dataset} at {self.path}", *(counts.line() for counts in self.splits)]
        if self.videos_opened is not None:
            lines.append(f"{counted(self.videos_opened, 'video')} decoded from first to last frame")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"fault {n}: {fault}" for n, fault in enumerate(self.faults, 1)]
        return [*lines, counted(len(self.faults), "fault") if self.faults else "no faults"]


def check_dataset(
    dataset: str,
    path: Path,
    splits: list[str] | None = None,
    *,
    sampling: Sampling | None = None,
    videos: Path | None = None,
    vidor: Path | None = None,
    text_encoder: str = "roberta-base",
    tokenizer: str | None = None,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every split (without ``splits``: all splits found). With ``videos``, decode every video in them.

    ``text_encoder``: the encoder that will read the sentences. ``tokenizer``: folder of its tokenizer. ``jobs``: number
    of videos decoded in parallel. ``progress``: called after each video. Faults are collected, not raised. Raises
    UsageError if the dataset or all of its splits do not exist.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} jobs cannot decode anything", expected="at least 1")
    sampling = sampling or Sampling()
    report = CheckReport(dataset, path)
    samples: list[Sample] = []
    for split in splits or find_splits(dataset, path):
        try:
            read = read_annotations(dataset, path, split, sampling=sampling, on_bad_record="skip", vidor=vidor)
        except StvgError as error:  # a fault of the whole split: a file that is missing or is not JSON
            report.faults.append(error)
            continue
        report.splits.append(SplitCounts.of(read, sampling))
        report.faults += read.dropped
        report.warnings += [f"{split}: {warning}" for warning in read.warnings]
        if notice := notice_of_long_ones(read.samples, text_encoder, tokenizer):
            report.warnings.append(f"{split}: {notice}")
        samples += read.samples
    if videos:
        distinct = list({s.video.video_id: s.video for s in samples}.values())
        _check_videos(report, distinct, videos, jobs, progress or (lambda done, total: None))
    return report


def _check_videos(
    report: CheckReport, videos: list[Video], folder: Path, processes: int, progress: Callable[[int, int], None]
) -> None:
    report.videos_opened = 0
    try:
        files = find_video_files(videos, folder, report.dataset)
        require_some(files, folder)
    except StvgError as error:
        report.faults.append(error)
        return
    assumed = find(report.dataset).rate_is_assumed
    ends: dict[str, End] = {}
    jobs = [CheckJob(v, file, assumed) for v in videos if isinstance(file := files[v.video_id], Path)]
    if jobs:
        with Decoders(Settings(processes=min(processes, len(videos)))) as decoders:
            for end in decoders.decode(iter(jobs)):
                assert isinstance(end, End)
                ends[end.job.video_id] = end
                progress(len(ends), len(jobs))
    for video in videos:
        file, found = files[video.video_id], ends.get(video.video_id)
        if isinstance(file, VideoError):
            report.faults.append(file)
        elif found is not None:
            report.videos_opened += found.error is None or isinstance(found.error, DisagreementError)
            report.faults += [found.error] if found.error else []
            report.warnings += found.warnings
