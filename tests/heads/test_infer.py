"""From logits to tubes: the recorded moments, one decision over all windows, and memory that ignores a video's length."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stvg.cache.batches.batch import Batch, Inputs
from stvg.cache.batches.dataset import CachedDataset
from stvg.cache.batches.order import inference_batches
from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling, windows
from stvg.cache.schema import Sample, Tube, Video
from stvg.cache.view import View
from stvg.evaluate.evaluation import tubes_of
from stvg.heads.decision import DISTINCT, Reading, Window, choose_span, explain, join
from stvg.heads.decision import moments as likeliest
from stvg.heads.infer import predict, read, read_windows
from stvg.heads.model import Grounder, LayerOutput, Output
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training.batch_size import fitting_batch_size
from stvg.heads.training.state import feature_facts

CPU = torch.device("cpu")


class Recorded(nn.Module):
    """Says what the tokens of its inputs hold: (B, T, 2) logits of start and end, then one score per candidate."""

    encoders = None

    def forward(self, batch: Batch) -> Output:
        inputs = batch.inputs
        B, T, width = inputs.tokens.shape
        N = max(width - 2, 1)
        span = inputs.tokens[:, None, :, :2].expand(B, N, T, 2)
        score = inputs.tokens[..., 2:].transpose(1, 2) if width > 2 else None
        boxes = torch.full((B, N, T, 4), 0.5) * torch.arange(1, N + 1)[:, None, None] / N
        return Output.of([LayerOutput(boxes, span, score, torch.zeros(B, N, T, T), torch.zeros(B, N, T, 8))])


def batch(*rows: tuple[str, np.ndarray, torch.Tensor]) -> Batch:
    """Clips as (sample id, source frames, what `Recorded` says of them)."""
    T = max(len(frames) for _, frames, _ in rows)
    tokens = torch.full((len(rows), T, rows[0][2].shape[-1]), 9.0)  # what stands in padding must not matter
    padding = torch.ones(len(rows), T, dtype=torch.bool)
    for b, (_, frames, says) in enumerate(rows):
        tokens[b, : len(frames)], padding[b, : len(frames)] = says[: len(frames)], False
    video = Video("v", "v.mp4", 100, 80, 10.0, 10_000)
    samples = [Sample(i, video, "a dog", "all", "test", (0, 10_000), (0, 1), np.zeros((1, 4))) for i, _, _ in rows]
    index, none = torch.zeros_like(padding, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.bool)
    inputs = Inputs(torch.zeros(1, 1, 1, 4), none, index, padding, tokens, padding)
    return Batch(
        samples,
        ["a dog"] * len(rows),
        [View(100, 80, 50, 40)] * len(rows),
        [torch.from_numpy(f) for _, f, _ in rows],
        inputs,
    )


def moments(batches: list[Batch]) -> dict[str, tuple[float, float]]:
    return {t.sample_id: (t.start, t.end) for t in predict(Recorded(), batches, CPU)}


def peaks(length: int, start: int | None = None, end: int | None = None) -> torch.Tensor:
    logits = torch.zeros(length, 2)
    if start is not None:
        logits[start, 0] = 5
    if end is not None:
        logits[end, 1] = 5
    return logits


def test_every_recorded_moment_is_found_in_batches_and_over_windows(shared):
    cases = json.loads((shared / "golden/postprocess.json").read_text())["moments"]
    arrays = np.load(shared / "golden/postprocess.npz")
    windowed = 0
    for case in cases:
        logits, videos = torch.from_numpy(arrays[f"{case['name']}/logits"]), case["video_ids"]
        names = list(dict.fromkeys(videos))
        read = dict.fromkeys(names, 0)
        rows = []
        for video, duration, says in zip(videos, case["durations"], logits, strict=True):
            at = read[video]
            frames = np.array(case["frames_id"][names.index(video)][at : at + duration])
            rows.append((str(video), frames, says))
            read[video] = at + duration
        windowed += len(names) < len(videos)
        answers = case["expected_duration_masked"] or case["expected"]
        expected = {str(n): tuple(moment) for n, moment in zip(names, answers, strict=True)}
        assert moments([batch(*rows)]) == expected, case["name"]
        assert moments([batch(row) for row in rows]) == expected, case["name"]
    assert windowed == 2


def brute_force(logits: torch.Tensor) -> tuple[int, int]:
    """The T x T form: every pair, the earliest start and end among equals."""
    log_p = logits.log_softmax(0)
    T = len(logits)
    allowed = torch.ones(T, T, dtype=torch.bool).triu(1 if T > 1 else 0)
    pairs = (log_p[:, None, 0] + log_p[None, :, 1]).masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(pairs.argmax()), T)
    return first, last


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12))
def test_the_running_maximum_finds_what_all_pairs_find(values):
    """Ties included: logits are few and whole, so many pairs are equally likely."""
    logits = torch.tensor(values, dtype=torch.float32)
    assert choose_span(logits) == brute_force(logits)


WHOLE = st.integers(-3, 3)


def likelihoods(span: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """(T, T): every span's probability as the product of its start's, its end's and every slot's, by definition."""
    T, log_p = len(span), span.double().log_softmax(0)
    slots = torch.arange(T)
    found = torch.full((T, T), -torch.inf, dtype=torch.float64)
    for first in range(T):
        for last in range(first, T):
            says = ((slots >= first) & (slots <= last)).double()
            of_slots = (says * inside.double().sigmoid() + (1 - says) * (-inside.double()).sigmoid()).log().sum()
            found[first, last] = log_p[first, 0] + log_p[last, 1] + of_slots
    return found.flatten().softmax(0).view(T, T)


@given(st.lists(st.tuples(WHOLE, WHOLE, WHOLE), min_size=2, max_size=8))
def test_where_frames_decide_too_a_span_is_as_likely_as_its_ends_and_all_its_slots(values):
    said = torch.tensor(values, dtype=torch.float32)
    span, inside = said[:, :2], said[:, 2]
    expected = likelihoods(span, inside)
    first, last = choose_span(span, inside)
    longer = torch.ones_like(expected, dtype=torch.bool).triu(1)
    assert expected[first, last] == pytest.approx(float(expected[longer].max()))
    start, end = span.double().softmax(0).numpy().T
    tube = Tube("a", first, last + 1, np.arange(len(said)), np.zeros((len(said), 4)))
    for moment in likeliest(Reading(tube, start, end, (), inside.double().numpy()), 4):
        assert moment.probability == pytest.approx(float(expected[moment.start, moment.end - 1]))


def test_frames_decide_over_all_windows_of_a_clip_together():
    """Ends that know nothing, slots that know the moment: it begins in the first window and ends in the third."""
    inside = torch.full((9,), -2.0)
    inside[2:7] = 2.0
    sample = Sample(
        "a", Video("v", "v.mp4", 100, 80, 10.0, 90), "a dog", "all", "test", (0, 90), (0, 1), np.zeros((1, 4))
    )
    parts, view = np.arange(0, 90, 10).reshape(3, 3), View(100, 80, 50, 40)
    some = [
        Window(sample, view, frames, torch.full((1, 3, 4), 0.5), torch.zeros(1, 3, 2), None, None, of_frames)
        for frames, of_frames in zip(parts, inside.split(3), strict=True)
    ]
    assert (join(some).start, join(some).end) == (20, 61)
    np.testing.assert_allclose(explain(some).inside, inside - inside.mean())  # of the clip, not of each window


def overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Temporal IoU of half-open spans."""
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def all_spans(start: np.ndarray, end: np.ndarray) -> list[tuple[float, int, int]]:
    return [(float(start[i] * end[j]), i, j) for i in range(len(start)) for j in range(i + 1, len(start))]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=10), st.integers(1, 6))
def test_further_moments_are_the_likeliest_that_overlap_none_before_them_by_half(values, count):
    start, end = (np.array(v, float) / sum(v) for v in zip(*values, strict=True))
    T = len(start)
    frames = np.arange(T)
    first, last = choose_span(torch.from_numpy(np.log([start, end]).T))
    reading = Reading(Tube("a", first, last + 1, frames, np.zeros((T, 4))), start, end, ())
    found = likeliest(reading, count)
    assert (found[0].start, found[0].end) == (first, last + 1)
    assert len(found) <= count
    taken = [(m.start, m.end) for m in found]
    for k, moment in enumerate(found[1:], start=1):
        left = [s for s in all_spans(start, end) if all(overlap((s[1], s[2] + 1), t) < DISTINCT for t in taken[:k])]
        assert moment.probability == pytest.approx(max(left)[0])
        assert all(overlap(taken[k], t) < DISTINCT for t in taken[:k])
    if len(found) < count:
        assert not [s for s in all_spans(start, end) if all(overlap((s[1], s[2] + 1), t) < DISTINCT for t in taken)]


def test_moments_of_an_hour_are_found_among_its_likeliest_slots():
    rng = np.random.default_rng(0)
    start, end = rng.dirichlet(np.full(18_000, 0.01), 2)
    first, last = choose_span(torch.from_numpy(np.log([start + 1e-300, end + 1e-300]).T))
    reading = Reading(Tube("a", first, last + 1, np.arange(18_000), np.zeros((1, 4))), start, end, ())
    found = likeliest(reading, 5)
    assert len({(m.start, m.end) for m in found}) == 5
    assert found[0].probability == max(m.probability for m in found)


def test_moments_too_unlikely_for_a_number_are_found_all_the_same():
    """The product over all slots of a long clip underflows; the order of moments does not depend on it."""
    inside = np.full(900, -20.0)
    inside[300:400] = 20.0
    even = np.full(900, 1 / 900)
    found = likeliest(Reading(Tube("a", 300, 400, np.arange(900), np.zeros((1, 4))), even, even, (), inside), 5)
    assert (found[0].start, found[0].end) == (300, 400)
    assert found[-1].probability == 0
    assert len({(m.start, m.end) for m in found}) == 5


def test_memory_is_held_for_heads_on_stored_features_only(monkeypatch):
    """Live encoders need blocks of many sizes: held ones fit no later batch, and the process would grow."""
    held = []
    monkeypatch.setattr("stvg.heads.infer.hold_memory", lambda: held.append(True))
    model = Recorded()
    list(predict(model, [batch(("a", np.arange(4), peaks(4, 0, 1)))], CPU))
    assert held == [True]
    monkeypatch.setattr(Recorded, "encoders", nn.Identity())
    list(predict(model, [batch(("a", np.arange(4), peaks(4, 0, 1)))], CPU))
    assert held == [True]


def test_a_moment_may_start_in_one_window_and_end_in_another():
    first, second, third = np.arange(0, 40, 10), np.arange(40, 80, 10), np.arange(80, 110, 10)
    rows = [("a", first, peaks(4, start=2)), ("a", second, peaks(4)), ("a", third, peaks(3, end=1))]
    other = ("b", first, peaks(4, 0, 1))
    expected = {"a": (20, 91), "b": (0, 11)}
    assert moments([batch(*rows, other)]) == expected
    assert moments([batch(*rows[:1]), batch(*rows[1:], other)]) == expected


def test_one_candidate_answers_for_all_windows_by_its_mean_over_all_slots():
    """Window means would elect candidate 0: 0.9 and 0.1 against 0.2 and 0.7. Slot means elect candidate 1."""

    def says(*p: float) -> torch.Tensor:
        return torch.logit(torch.tensor(p))

    short = torch.cat([peaks(2, 0, 1), says(0.9, 0.2).expand(2, 2)], dim=1)
    long = torch.cat([peaks(6), says(0.1, 0.7).expand(6, 2)], dim=1)
    (tube,) = predict(Recorded(), [batch(("a", np.arange(2), short), ("a", np.arange(2, 8), long))], CPU)
    assert tube.query == 1
    assert tube.score == pytest.approx((2 * 0.2 + 6 * 0.7) / 8)
    assert len(tube.frames) == len(tube.boxes) == 8
    assert (tube.boxes == tube.boxes[0]).all()


def test_one_sample_given_twice_is_not_taken_for_two_windows():
    row = ("a", np.arange(4), peaks(4, 0, 1))
    with pytest.raises(ValueError, match="sample a overlap"):
        list(predict(Recorded(), [batch(row, row)], CPU))


@pytest.fixture(scope="module")
def held_out(tiny_cache):
    return CachedDataset(Cache.open(tiny_cache), "test", Sampling(5.0, 40))


def head(held_out, max_frames):
    settings = ["model.num_queries=3", f"model.max_frames={max_frames}"]
    model = build_model(load_experiment("tiny", settings).model, feature_facts(held_out.cache.recipe, "cached"), 1)
    torch.manual_seed(0)
    nn.init.normal_(model.fusion.frame_scale)
    return Grounder(model)


def test_a_batch_never_holds_more_slots_than_its_windows_however_long_the_clips(held_out):
    longest = max(len(held_out[i].frames) for i in range(len(held_out)))
    assert longest > 3 * 7
    read = {s.sample_id: [] for s in held_out.samples()}
    for found in inference_batches(held_out, 4, window=7):
        assert len(found.samples) <= 4
        assert found.inputs.frame_padding.shape[1] <= 7
        assert len(found.inputs.maps) <= 4 * 7
        for sample, frames in zip(found.samples, found.frames, strict=True):
            read[sample.sample_id] += frames.tolist()
    assert read == {held_out[i].sample.sample_id: held_out[i].frames.tolist() for i in range(len(held_out))}


@pytest.mark.parametrize("max_frames", [9, 40])
def test_a_head_answers_clips_longer_than_it_was_trained_for_and_never_sees_them_whole(held_out, max_frames):
    """Batched windows give what each gives alone, and a clip that fits is one window. γ has no weight for a 10th slot."""
    model = head(held_out, max_frames)
    slots = []
    model.head.register_forward_hook(lambda m, arguments, r: slots.append(arguments[0].frame_padding.shape[1]))
    tubes = tubes_of(model, held_out, 5, CPU)
    longest = max(len(held_out[i].frames) for i in range(len(held_out)))
    assert max(slots) == min(longest, max_frames)
    assert list(tubes) == [s.sample_id for s in held_out.samples()]
    model.eval()
    for i in range(0, len(held_out), 5):
        clip = held_out[i]
        pieces = [held_out.collate([replace(clip, frames=w)]) for w in windows(clip.frames, max_frames)]
        alone, tube = join([read_windows(model, p)[0] for p in pieces]), tubes[clip.sample.sample_id]
        assert (tube.start, tube.end, tube.query) == (alone.start, alone.end, alone.query)
        assert tube.frames.tolist() == clip.frames.tolist()
        assert tube.score == pytest.approx(alone.score, abs=1e-5)
        np.testing.assert_allclose(tube.boxes, alone.boxes, atol=1e-2)


def test_frames_decide_only_where_the_head_says_so(held_out):
    model = head(held_out, 40)
    model.eval()
    one = held_out.collate([held_out[0]])
    assert read_windows(model, one)[0].inside is None
    model.head.config = replace(model.head.config, frame_decision=True)
    assert torch.equal(read_windows(model, one)[0].inside, model(one).similarity[0])


class Costly(Recorded):
    """Takes ``fixed`` seconds a batch and ``each`` a clip; more than ``most`` clips do not fit."""

    def __init__(self, fixed: float, each: float, most: int = 1000) -> None:
        super().__init__()
        self.fixed, self.each, self.most = fixed, each, most

    def forward(self, batch: Batch) -> Output:
        if len(batch.samples) > self.most:
            raise torch.OutOfMemoryError("no memory for another clip")
        time.sleep(self.fixed + self.each * sum(map(len, batch.frames)))
        tokens = torch.zeros(*batch.inputs.frame_padding.shape, 3)
        return super().forward(replace(batch, inputs=replace(batch.inputs, tokens=tokens)))


@pytest.mark.parametrize(
    ("model", "size"),
    [(Costly(0.03, 0), 16), (Costly(0, 0.001), 1), (Costly(0.03, 0, most=5), 4)],
    ids=["larger is always faster: until the split ends", "larger gains nothing", "until memory ends"],
)
def test_the_automatic_batch_size_grows_as_long_as_it_pays(held_out, model, size):
    assert 8 <= len(held_out) < 16
    assert fitting_batch_size(model, held_out, 40, CPU) == size


@pytest.mark.parametrize("max_frames", [9, 40])
def test_evidence_comes_with_the_same_tubes_and_windows_do_not_look_at_each_other(held_out, max_frames):
    model = head(held_out, max_frames)
    tubes = predict(model, inference_batches(held_out, 5, max_frames), CPU)
    for tube, found in zip(tubes, read(model, inference_batches(held_out, 5, max_frames), CPU), strict=True):
        assert (tube.sample_id, tube.start, tube.end) == (found.tube.sample_id, found.tube.start, found.tube.end)
        np.testing.assert_array_equal(tube.boxes, found.tube.boxes)
        T = len(tube.frames)
        assert found.start.shape == found.end.shape == (T,)
        assert found.start.sum() == pytest.approx(1, abs=1e-6)
        assert found.end.sum() == pytest.approx(1, abs=1e-6)
        assert [len(window) for window in found.attention] == [len(w) for w in windows(np.arange(T), max_frames)]
        for window in found.attention:
            np.testing.assert_allclose(window.sum(axis=1), np.ones(len(window)), atol=1e-5)


def test_the_evidence_peaks_where_the_moment_was_put():
    rows = [("a", np.arange(0, 40, 10), peaks(4, start=2)), ("a", np.arange(40, 80, 10), peaks(4, end=1))]
    (found,) = read(Recorded(), [batch(*rows)], CPU)
    assert (found.start.argmax(), found.end.argmax()) == (2, 5)
    assert (found.tube.start, found.tube.end) == (20, 51)


def test_a_head_refuses_slots_it_has_no_weight_for(held_out):
    with pytest.raises(ValueError, match="use windows"):
        list(predict(head(held_out, 9), inference_batches(held_out, 2, window=10), CPU))
