"""A cache that keeps no features: made without a video, whole as it is, and read by heads that read pixels alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.cache.upkeep.convert import convert
from stvg.cache.upkeep.coverage import Coverage
from stvg.cache.upkeep.merge import merge
from stvg.cache.upkeep.summary import summarise, summary_lines
from stvg.cache.upkeep.verify import verify
from stvg.errors import CacheError, StvgError, UsageError
from stvg.evaluate.evaluation import load_head, open_split
from stvg.extract.estimate import estimate
from stvg.extract.job import ExtractJob, run_job
from stvg.heads.settings import load_experiment
from stvg.heads.training.state import Run

CPU = torch.device("cpu")


def job(data: Path, out: Path, *splits: str, **options: object) -> ExtractJob:
    options = {"backbone": "tiny", "resolution": 96, "levels": "none", "videos": out / "nowhere", **options}
    options |= {"annotations": data, "out": out, "sampling": Sampling(5.0, 40), "device": CPU, "splits": list(splits)}
    return ExtractJob(dataset="vidstg", **options)  # type: ignore[arg-type]


@pytest.fixture
def bare(synthetic: Path, tmp_path: Path) -> Path:
    report, _ = run_job(job(synthetic, tmp_path / "bare", "train", "test"))
    assert (report.videos, report.frames, report.sentences, report.skipped) == (0, 0, 0, {})
    return tmp_path / "bare"


def test_it_lacks_nothing_and_has_the_samples_of_any_other(bare, tiny_cache, synthetic):
    cache, other = Cache.open(bare), Cache.open(tiny_cache)
    assert (cache.complete(), verify(bare).problems) == (set(), [])
    coverage = Coverage.of(cache)
    assert (coverage.complete, coverage.sentences_missing) == (8, 0)
    assert "no features are kept" in repr(cache)
    assert "no features are kept" in "\n".join(summary_lines(summarise(cache)))
    ours, theirs = (c.contents("train").videos for c in (cache, other))
    assert ours == theirs
    expected = estimate(job(synthetic, bare, "train"))
    assert (expected.videos, expected.bytes, expected.sentences) == (0, 0, 0)


def test_further_splits_are_added_and_it_converts_and_merges(bare, synthetic, tmp_path):
    for split in ("train", "test"):
        run_job(job(synthetic, tmp_path / split, split))
    merge(tmp_path / "merged", [tmp_path / "train", tmp_path / "test"])
    run_job(job(synthetic, tmp_path / "train", "test"))
    convert(bare, tmp_path / "converted", "hdf5")
    for name in ("train", "merged", "converted"):
        assert sorted(Cache.open(tmp_path / name).annotations.splits) == ["test", "train"]
        assert verify(tmp_path / name).problems == []


@pytest.mark.parametrize("mode", ["cached", "text", "last-stage"])
def test_what_reads_features_is_refused(bare, tmp_path, mode):
    with pytest.raises(UsageError, match="keeps no features") as refused:
        Run(tmp_path / "run", Cache.open(bare), load_experiment("tiny", [f"train.mode={mode}"]), "train", CPU)
    assert "--mode end-to-end" in refused.value.facts["hint"]


def test_a_head_that_was_trained_on_features_is_not_evaluated_on_it(bare, checkpoint):
    with pytest.raises(CacheError, match="keeps no maps of level c5") as refused:
        open_split(load_head(checkpoint, CPU), Cache.open(bare), "test")
    assert "roi, full or last" in refused.value.facts["expected"]


def test_it_never_becomes_a_cache_of_features(bare, synthetic):
    with pytest.raises(StvgError, match="another recipe"):
        run_job(job(synthetic, bare, "train", levels="roi", videos=None))
