"""Annotation sets: replaced whole, several side by side, found by name, equal whatever the order of their samples."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest

from stvg.cache import set_files
from stvg.cache.annotations import AnnotationSet
from stvg.cache.index import Cache
from stvg.cache.schema import same_sample
from stvg.cache.set_files import put_set, read_set, remove_set, set_names, update_set, write_set
from stvg.errors import CacheError, UsageError

from .caches import RECIPE, annotated, make_samples


def of(samples, name="s", **facts) -> AnnotationSet:
    return AnnotationSet.of(name, "json", samples, **facts)


def in_split(samples, split):
    return [replace(s, split=split) for s in samples]


def files(path):
    return {p.name: p.read_bytes() for p in (path / "annotations").iterdir()}


def test_equal_samples_in_another_order_are_the_same_set_and_nothing_is_written(tmp_path):
    samples = make_samples(range(4))
    update_set(tmp_path, of(samples, max_frames=100))
    before = files(tmp_path)
    now = update_set(tmp_path, of(samples[::-1], max_frames=40))
    assert files(tmp_path) == before
    assert [s.sample_id for s in now.samples] == [s.sample_id for s in samples]
    assert now.splits["train"].max_frames == 100


def test_a_changed_word_box_or_split_is_another_set():
    samples = make_samples(range(2))
    boxes = samples[0].boxes.copy()
    boxes[0, 0] += 1
    others = [
        [replace(samples[0], sentence="who walks?"), *samples[1:]],
        [replace(samples[0], boxes=boxes), *samples[1:]],
        in_split(samples, "test"),
        samples[1:],
    ]
    assert len({of(some).sha256 for some in [samples, *others]}) == 5


def test_the_splits_that_are_named_are_replaced_and_others_stay(tmp_path):
    train, test = make_samples(range(3)), in_split(make_samples(range(3, 5)), "test")
    update_set(tmp_path, of(train))
    update_set(tmp_path, of(test))
    found = read_set(tmp_path, "s")
    assert (found.splits["train"].samples, found.splits["test"].samples) == (9, 6)
    now = update_set(tmp_path, of(test[:1]))
    assert (now.splits["train"], now.splits["test"].samples) == (found.splits["train"], 1)
    assert len(files(tmp_path)) == 2
    assert all(same_sample(a, b) for a, b in zip(read_set(tmp_path, "s").samples, [*train, test[0]], strict=True))


def test_a_split_may_become_empty(tmp_path):
    update_set(tmp_path, of(make_samples(range(2))))
    update_set(tmp_path, of([], splits=["train"]))
    assert read_set(tmp_path, "s").splits["train"].samples == 0


def test_another_dataset_under_the_same_name_is_refused(tmp_path):
    update_set(tmp_path, of(make_samples(range(2))))
    before = files(tmp_path)
    with pytest.raises(CacheError, match="of another dataset") as refused:
        update_set(tmp_path, AnnotationSet.of("s", "vidstg", make_samples(range(2))))
    assert "--annotation-set" in refused.value.facts["hint"]
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "../x", "a b", "a/b", "x" * 101])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(UsageError, match="cannot name an annotation set"):
        of([], name=name)


def test_of_several_sets_one_must_be_named(tmp_path):
    cache = annotated(tmp_path / "c", make_samples(range(2)))
    assert Cache.open(cache.path).annotations.name == "json"
    cache.annotate(of(make_samples(range(1)), name="mine"))
    with pytest.raises(CacheError, match="holds 2 annotation sets") as refused:
        _ = Cache.open(cache.path).samples
    assert refused.value.facts == {"found": "json, mine", "hint": "--annotation-set NAME"}
    assert len(Cache.open(cache.path, "mine").samples) == 3
    with pytest.raises(CacheError, match="no annotation set 'mien'"):
        _ = Cache.open(cache.path, "mien").samples
    remove_set(cache.path, "json")
    assert set_names(cache.path) == ["mine"]
    assert len(files(cache.path)) == 2
    with pytest.raises(CacheError, match="no annotation set 'json'"):
        remove_set(cache.path, "json")


def test_a_set_whose_name_begins_like_another_is_left_alone(tmp_path):
    for name in ("a", "a.b", "a.0123456789abcdef"):
        write_set(tmp_path, of(make_samples(range(1)), name=name))
    write_set(tmp_path, of(make_samples(range(2)), name="a"))
    remove_set(tmp_path, "a")
    assert set_names(tmp_path) == ["a.0123456789abcdef", "a.b"]
    assert [len(read_set(tmp_path, name).samples) for name in set_names(tmp_path)] == [3, 3]


def test_an_open_table_outlives_its_replacement_and_a_copy_of_it_in_another_process_does_not_lie(tmp_path):
    update_set(tmp_path, of(make_samples(range(3))))
    opened = read_set(tmp_path, "s")
    sent = pickle.dumps(opened.samples)
    assert len(pickle.loads(sent)) == 9
    update_set(tmp_path, of(make_samples(range(1))))
    np.testing.assert_array_equal(opened.samples[8].boxes, make_samples(range(3))[8].boxes)
    with pytest.raises(CacheError, match="missing"):
        pickle.loads(sent)


def test_a_reader_that_meets_a_replacement_reads_the_new_set(tmp_path, monkeypatch):
    update_set(tmp_path, of(make_samples(range(3))))
    opened, replaced = set_files._read_header, []

    def slow(cache, name):
        facts = opened(cache, name)
        if not replaced:
            replaced.append(True)
            update_set(tmp_path, of(make_samples(range(1))))
        return facts

    with monkeypatch.context() as patch:
        patch.setattr(set_files, "_read_header", slow)
        found = read_set(tmp_path, "s")
    assert len(found.samples) == 3


def test_of_several_that_add_their_split_at_once_none_is_lost(tmp_path):
    """Run often, since the order differs."""
    for turn in range(5):
        cache = annotated(tmp_path / str(turn), [])
        splits = {f"split{i}": in_split(make_samples(range(i, i + 1)), f"split{i}") for i in range(4)}
        team = [threading.Thread(target=update_set, args=(cache.path, of(some))) for some in splits.values()]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        assert read_set(cache.path, "s").splits.keys() == splits.keys()


def test_of_several_that_make_a_cache_at_once_all_get_the_same(tmp_path):
    for turn in range(10):
        made: list[Cache] = []
        team = [
            threading.Thread(target=lambda: made.append(Cache.create(tmp_path / str(turn), RECIPE, "zarr", {})))  # noqa: B023
            for _ in range(4)
        ]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        assert len(made) == 4
        assert len({cache.header.to_bytes() for cache in made}) == 1


def test_sets_are_united_and_contradictions_named():
    one, other = of(make_samples(range(3)), max_frames=100), of(make_samples(range(2, 5)), max_frames=100)
    both = one.united_with(other, "c")
    assert both.sha256 == of(make_samples(range(5))).sha256
    assert both.splits["train"].samples == 15
    with pytest.raises(CacheError, match="contradicts") as refused:
        one.united_with(of([replace(make_samples(range(1))[0], sentence="no")], max_frames=100), "c")
    assert "sample 0 of train is different" in refused.value.facts["found"]
    with pytest.raises(CacheError, match="contradicts") as refused:
        one.united_with(of(make_samples(range(7, 8)), max_frames=40), "c")
    assert "--max-frames 100" in refused.value.facts["found"]
    with pytest.raises(CacheError, match="contradicts"):
        one.united_with(AnnotationSet.of("s", "vidstg", make_samples(range(3))), "c")


def test_a_set_is_put_in_place_of_another_only_where_it_is_another(tmp_path):
    put_set(tmp_path, of(make_samples(range(2))))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "annotations").iterdir()}
    put_set(tmp_path, of(make_samples(range(2))))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "annotations").iterdir()} == before
    put_set(tmp_path, of(make_samples(range(3))))
    assert len(read_set(tmp_path, "s").samples) == 9
