"""What ``import stvg`` offers: exactly the names that are documented, at once, and each doing what its command does."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import stvg
from stvg import library
from stvg.cache.index import Cache
from stvg.errors import UsageError
from stvg.heads.training.request import placed

from .conftest import Ran
from .evaluate.test_ablation import train_here
from .notebook import NOTEBOOK, PAGE, notebook_of


def test_the_import_loads_nothing_and_offers_what_is_documented() -> None:
    code = (
        "import sys, stvg; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'click')], dir(stvg))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] ")
    assert all(f"'{name}'" in said for name in stvg.__all__)
    assert all(getattr(stvg, name).__doc__ for name in stvg.__all__)
    assert {*re.findall(r"\bstvg\.([A-Za-z_]+)\b", PAGE.read_text())} - {"extract", "errors"} <= {*stvg.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nonsuch'"):
        _ = stvg.nonsuch


def test_the_notebook_is_the_page() -> None:
    """So what runs of the one runs of the other. ``uv run python tests/notebook.py`` writes it."""
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook_of(PAGE.read_text(encoding="utf-8"))


def test_the_page_runs_from_top_to_bottom(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells of its ablation run in this process; `evaluate.test_ablation` has those in processes of their own."""
    monkeypatch.setattr("stvg.evaluate.ablation.launch.run_cell", lambda cell, *_: train_here(cell))
    (tmp_path / "shapes").symlink_to(synthetic)
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), known)
    assert known["picture"].size[0] > 600
    assert list(known["answers"].to_frame()["sentence"]) == ["the red square moves to the left", "a blue circle"]
    assert known["c5"].shape[0] == 2
    assert known["head"].head.model.head.config.head == "fsm"
    again = stvg.train("cache", "runs/tiny", preset="tiny", set={"train.epochs": 1, "train.batch_size": 8})
    assert repr(again.evaluate("cache")) == repr(known["scores"])


def test_an_evaluation_is_the_commands_table_a_frame_and_a_plot(
    tiny_cache: Path, checkpoint: Path, stvg: Callable[..., Ran], tmp_path: Path
) -> None:
    """Whoever names a run's folder means its best checkpoint."""
    command = ("evaluate", "--checkpoint", checkpoint.parent, "--cache", tiny_cache, "--out", tmp_path / "tubes.jsonl")
    printed = stvg(*command).out
    found = library.load(checkpoint.parent).evaluate(tiny_cache)
    assert [line for line in found.table().splitlines() if line.startswith(("all", "declarative", "interrogative"))]
    figures = [row.split()[-1] for row in found.table().splitlines() if row and row[0] != " "]
    assert all(figure in printed for figure in figures)
    frame = found.to_frame()
    rows = found.to_frame(samples=True)
    for group, means in frame.iterrows():
        assert rows[rows.qtype == group].vIoU.mean() == pytest.approx(means["m_vIoU"])
    found.plot().savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_features_are_those_of_the_store_at_the_frames_that_are_named(tiny_cache: Path) -> None:
    cache = stvg.open(str(tiny_cache))
    video = cache.videos[0]
    unit = cache.unit(video)
    whole = cache.features(video)
    assert torch.equal(whole, unit.read("c5", unit.places(unit.frames)))
    assert torch.equal(cache.features(video, "c5", unit.frames[[3, 1]].tolist()), whole[[3, 1]])
    with pytest.raises(stvg.StvgError, match="keeps no maps of level 'c3'"):
        cache.features(video, "c3")
    with pytest.raises(stvg.StvgError, match="no features of source frames"):
        cache.features(video, frames=[int(unit.frames[-1]) + 10_000])
    with pytest.raises(stvg.StvgError, match="no view 1"):
        cache.features(video, view=1)


def test_a_cache_says_what_it_holds(tiny_cache: Path) -> None:
    said = repr(stvg.open(tiny_cache))
    for part in ("8 videos", "tiny: c3 (regions)", "c5 (maps)", "vidstg: train"):
        assert part in said, said


def test_a_dataset_opens_the_cache_it_is_given_the_place_of_and_says_what_it_holds(tiny_cache: Path) -> None:
    data = stvg.Dataset(str(tiny_cache), "train")
    assert repr(data) == f"Dataset train of {tiny_cache}: {len(data):,} samples"
    assert [clip.sample.sample_id for clip in map(data.__getitem__, range(2))] == [
        clip.sample.sample_id for clip in map(stvg.Dataset(stvg.open(tiny_cache), "train").__getitem__, range(2))
    ]
    assert "boxes" not in repr(data[0].sample)


def test_the_table_of_samples_says_what_the_samples_say(tiny_cache: Path) -> None:
    cache = Cache.open(tiny_cache)
    frame = cache.samples.to_frame()
    assert len(frame) == len(cache.samples)
    for i in (0, len(frame) - 1):
        sample, row = cache.samples[i], frame.iloc[i]
        assert row["sample_id"] == sample.sample_id
        assert (row["moment_start"], row["moment_end"]) == sample.moment
        np.testing.assert_array_equal(row["boxes"], sample.boxes)
    assert {*cache.samples.to_frame("test")["split"]} == {"test"}


def test_an_option_that_there_is_none_of_is_refused_with_the_nearest_name(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'backbone'"):
        stvg.extract_features("vidstg", tmp_path, out=tmp_path / "out", bakbone="tiny")
    with pytest.raises(UsageError, match="train has no option 'epochs'"):
        stvg.train(tiny_cache, tmp_path / "run", epochs=3)
    with pytest.raises(UsageError, match="load has no option"):
        stvg.load(tmp_path / "x", tokeniser="here")


def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    synthetic: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    for wrong in ({"levels": "x"}, {"dtype": "int4"}, {"amp": "fp8"}, {"fps": 0}):
        with pytest.raises(UsageError):
            stvg.extract_features("vidstg", synthetic, out=tmp_path / "out", backbone="tiny", resolution=96, **wrong)
        assert not (tmp_path / "out").exists()
    with pytest.raises(stvg.StvgError, match="no split 'nosplit'"):
        stvg.open(tiny_cache).samples.to_frame("nosplit")
    for settings in ("train.epochs=1", [{"train.epochs": 1}], 3):
        with pytest.raises(UsageError, match="set is neither a mapping nor a list of texts"):
            stvg.train(tiny_cache, tmp_path / "run", set=settings)
    with pytest.raises(UsageError, match="no split 'nosplit' to validate on"):
        stvg.train(tiny_cache, tmp_path / "run", preset="tiny", val_split="nosplit")
    with pytest.raises(UsageError, match="not a folder of videos"):
        stvg.train(tiny_cache, tmp_path / "run", preset="tiny", mode="end-to-end", videos=tmp_path / "nosuch")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_extraction_that_is_asked_to_end_returns_no_cache_and_goes_on_when_repeated(
    number: signal.Signals, split: str, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a script would go on to train on a part of the videos. Of ``test`` no video is left when it is asked."""

    def ask(*_: object) -> None:
        signal.raise_signal(number)

    given = {"out": tmp_path / "c", "splits": [split], "backbone": "tiny", "resolution": 96}
    with monkeypatch.context() as patched:
        patched.setattr("stvg.extract.progress.ExtractionProgress.__call__", ask)
        with pytest.raises(KeyboardInterrupt):
            stvg.extract_features("vidstg", synthetic, **given)
    assert (tmp_path / "c/videos").exists()
    assert not stvg.Dataset(stvg.extract_features("vidstg", synthetic, **given), split).missing


def test_settings_in_groups_are_the_settings_under_dotted_names() -> None:
    grouped = {"train": {"epochs": 1, "lr": 0.1}, "model.d": 64}
    assert sorted(library.assigned(grouped)) == ["model.d=64", "train.epochs=1", "train.lr=0.1"]


@pytest.mark.parametrize("kind", [list, tuple])
def test_settings_may_be_a_sequence_of_assignments_as_on_the_command_line(kind: type) -> None:
    assert library.assigned(kind(["train.epochs=2", "model.d=64"])) == ("train.epochs=2", "model.d=64")


def test_one_name_and_several_names_are_not_taken_for_each_other(tiny_cache: Path, tmp_path: Path) -> None:
    """Several splits are extracted, and one is trained on: as ``--split`` may be repeated for the one command only."""
    with pytest.raises(UsageError, match=r"(?s)splits is 'train'.*a list of texts: splits=\['train'\]"):
        stvg.extract_features("vidstg", tmp_path, out=tmp_path / "out", splits="train")
    with pytest.raises(UsageError, match="did you mean 'splits'"):
        stvg.extract_features("vidstg", tmp_path, out=tmp_path / "out", split="train")
    for call in (stvg.train, stvg.ablate):
        with pytest.raises(UsageError, match=r"(?s)split is \['train'\].*one text"):
            call(tiny_cache, tmp_path / "run", preset="tiny", split=["train"])
        with pytest.raises(UsageError, match="did you mean 'split'"):
            call(tiny_cache, tmp_path / "run", preset="tiny", splits=["train"])


def test_places_of_several_encoders_are_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert placed("backbone_weights", ",random,w.pth") == f",random,{tmp_path}/w.pth"
    assert placed("backbone", "tiny,hf:dino,my.py:Mine") == f"tiny,hf:{tmp_path}/dino,{tmp_path}/my.py:Mine"
    (tmp_path / "a,b.pth").touch()
    assert placed("backbone_weights", "a,b.pth") == f"{tmp_path}/a,b.pth"
