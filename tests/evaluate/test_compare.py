"""Intervals and comparisons: what resampling must give, pairs that belong together, files that do not fit."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.sampling import Sampling
from stvg.cache.schema import Sample, Tube, Video
from stvg.errors import PredictionError
from stvg.evaluate.bootstrap import intervals
from stvg.evaluate.compare import compare, read_scores
from stvg.evaluate.exports import write_challenge, write_coco, write_csv
from stvg.evaluate.metrics import METRICS, SampleScore, Scores, score
from stvg.evaluate.tables import format_comparison


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 1000))
def test_an_interval_holds_the_mean_and_does_not_depend_on_the_order_of_samples(videos, per_video, seed):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"v{i}" for i in range(videos)], per_video)
    values = rng.random((len(names), 2))
    found = intervals(values, names.tolist(), draws=400)
    order = rng.permutation(len(names))
    np.testing.assert_allclose(intervals(values[order], names[order].tolist(), draws=400), found, atol=1e-12)
    for (low, high), mean in zip(found, values.mean(0), strict=True):
        assert low <= mean + 0.02
        assert high >= mean - 0.02
        assert 0 <= low <= high <= 1


def test_an_interval_is_that_of_the_normal_approximation_for_many_videos():
    values = np.random.default_rng(0).random((3000, 1))
    ((low, high),) = intervals(values, [str(i) for i in range(3000)])
    error = 1.96 * values.std() / np.sqrt(3000)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=error / 10)


def test_sentences_of_one_video_are_one_observation():
    """Ten sentences with one value a video: as sure as ten videos, not as a hundred sentences."""
    value = np.random.default_rng(1).random(10)
    repeated = intervals(np.repeat(value, 10)[:, None], np.repeat(np.arange(10), 10).astype(str).tolist())
    single = intervals(value[:, None], np.arange(10).astype(str).tolist())
    apart = intervals(np.repeat(value, 10)[:, None], np.arange(100).astype(str).tolist())
    np.testing.assert_allclose(repeated, single)
    assert apart[0][1] - apart[0][0] < 0.5 * (single[0][1] - single[0][0])


def a_score(i, viou, group="all", video=None):
    return SampleScore(i, video or f"v{i}", f"sentence {i}", group, viou, viou, viou)


def a_file(folder, name, samples, **how):
    scores = Scores("tubedetr", Sampling(5, 100), len(samples), [], {"all": dict.fromkeys(METRICS, 0.0)}, samples)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**scores.to_json(), **how}))
    return read_scores(path)


def test_a_constant_gain_is_sure_and_the_largest_change_comes_first(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.random(60) * 0.5
    gain = np.full(60, 0.1)
    gain[7] = -0.4
    a = a_file(tmp_path, "a", [a_score(i, v) for i, v in enumerate(before)])
    b = a_file(tmp_path, "b", [a_score(i, v) for i, v in enumerate(before + gain)])
    found = compare(a, b)
    by_metric = {d.metric: d for d in found.differences}
    assert by_metric["m_vIoU"].b - by_metric["m_vIoU"].a == pytest.approx(gain.mean())
    assert by_metric["m_vIoU"].sure
    assert found.changed[0][0].sample_id == 7
    assert len(found.changed) == 60
    text = format_comparison(found, "a", "b")
    assert "+9.17" in text
    first = next(i for i, line in enumerate(text.splitlines()) if line.startswith("sample "))
    assert "sentence 7" in text.splitlines()[first + 2]
    assert not any(d.sure for d in compare(a, a).differences)
    sheet = list(csv.DictReader(io.StringIO(format_comparison(found, "a", "b", "csv"))))
    assert float(sheet[1]["difference"]) == pytest.approx(100 * gain.mean())
    assert format_comparison(found, "a", "b", "markdown").count("|") > 40
    assert r"\begin{tabular}" in format_comparison(found, "a", "b", "latex")


def test_samples_that_only_one_run_has_are_counted_and_left_out(tmp_path):
    a = a_file(tmp_path, "a", [a_score(i, 0.5) for i in range(5)])
    b = a_file(tmp_path, "b", [a_score(i, 0.5) for i in range(2, 9)])
    found = compare(a, b)
    assert (found.only_a, found.only_b, len(found.changed)) == (2, 4, 3)


def test_runs_that_were_scored_otherwise_or_on_other_samples_are_not_compared(tmp_path):
    a = a_file(tmp_path, "a", [a_score(0, 0.5)])
    with pytest.raises(PredictionError, match=r"not scored alike\n +protocol"):
        compare(a, a_file(tmp_path, "b", [a_score(0, 0.5)], protocol="dense"))
    with pytest.raises(PredictionError, match="another one in each file"):
        compare(a, a_file(tmp_path, "c", [a_score(0, 0.5, video="w")]))
    with pytest.raises(PredictionError, match="no sample in common"):
        compare(a, a_file(tmp_path, "d", [a_score(1, 0.5)]))
    for broken in ("[]", "{", '{"samples": [{"sample_id": 1}], "protocol": "dense", "fps": 5, "max_frames": 1}'):
        (tmp_path / "e.json").write_text(broken)
        with pytest.raises(PredictionError, match="holds no scores"):
            read_scores(tmp_path / "e.json")


# --- exports -------------------------------------------------------------------------------------------------------------

VIDEO = Video("a <b>.mp4", "a <b>.mp4", 100, 80, 10.0, 40)


def a_sample(i=0, sentence='the "=1+1", man'):
    return Sample(i, VIDEO, sentence, "all", "test", (0, 40), (4, 12), np.tile([10.0, 10, 30, 40], (8, 1)))


TUBE = Tube(
    0, 6, 10, np.array([4, 8, 12]), np.array([[10.0, 10, 30, 40], [14, 10, 34, 40], [18, 10, 38, 40]]), score=0.5
)


def test_the_challenge_gets_inclusive_frames_counted_from_one_and_a_box_for_each(tmp_path):
    write_challenge(tmp_path / "x.json", [a_sample()], {0: TUBE})
    (video,) = json.loads((tmp_path / "x.json").read_text()).items()
    assert video[0] == "a <b>.mp4"
    assert (video[1]["st_frame"], video[1]["ed_frame"]) == (7, 10)
    assert video[1]["bbox"] == {
        "7": [12, 10, 32, 40],
        "8": [13, 10, 33, 40],
        "9": [14, 10, 34, 40],
        "10": [15, 10, 35, 40],
    }
    with pytest.raises(PredictionError, match="several sentences"):
        write_challenge(tmp_path / "y.json", [a_sample(), a_sample(1)], {0: TUBE, 1: TUBE})
    assert not (tmp_path / "y.json").exists()


def test_coco_tracks_have_a_box_or_null_for_every_source_frame(tmp_path):
    write_coco(tmp_path / "x.json", [a_sample(), a_sample(1, "another")], {0: TUBE, 1: TUBE})
    stored = json.loads((tmp_path / "x.json").read_text())
    assert len(stored["videos"]) == 1
    first, second = stored["annotations"]
    assert first["video_id"] == second["video_id"] == stored["videos"][0]["id"]
    assert len(first["bboxes"]) == 40
    assert [i for i, box in enumerate(first["bboxes"]) if box] == [6, 7, 8, 9]
    assert first["bboxes"][8] == [14, 10, 20, 30]
    assert first["caption"] == 'the "=1+1", man'


def test_the_spreadsheet_has_a_line_a_sample_whatever_is_in_its_sentence(tmp_path):
    samples = [a_sample(), a_sample(1, "two\nlines, and a comma"), a_sample(2, "no prediction")]
    scores = score(samples, {0: TUBE, 1: TUBE}, protocol="dense", allow_missing=True)
    write_csv(tmp_path / "x.csv", samples, {0: TUBE, 1: TUBE}, scores)
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["sentence"] for r in rows] == [s.sentence for s in samples]
    assert rows[0]["predicted_start"] == "6"
    assert float(rows[0]["vIoU"]) == pytest.approx(asdict(scores.samples[0])["vIoU"])
    assert rows[2]["vIoU"] == rows[2]["score"] == ""
