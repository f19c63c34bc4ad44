"""Files of other projects: the same tubes score the same in every format, and what cannot be told is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stvg.cache.schema import Sample, Tube, Video
from stvg.errors import PredictionError
from stvg.evaluate.exports import write_challenge
from stvg.evaluate.metrics import SampleScore, score
from stvg.evaluate.prediction_formats.table import FORMATS
from stvg.evaluate.predictions import LINES, read_prediction_file, read_predictions, write_predictions
from stvg.requested import PROTOCOLS

Id = int | str
KINDS = ("interrogative", "interrogative", "declarative", "declarative", "declarative", "interrogative", "declarative")
CAPTIONS_FIRST = [2, 3, 0, 1, 4, 6, 5]
"""Three records: two questions and two captions, a caption, a question and a caption."""
TUBEDETR, STCAT, CHALLENGE = (f.name for f in FORMATS)


def a_sample(i: int, named: bool = False) -> Sample:
    """Of VidSTG, or with a name as in HC-STVG."""
    video = Video(f"{i}_x.mp4" if named else f"v{i // 4}", f"{i}.mp4", 160, 120, 25.0, 100)
    boxes = np.array([10.0 + i, 20, 50, 50]) + np.arange(40)[:, None] * [1, 0, 1, 0]
    kind = "all" if named else KINDS[i]
    sample_id: Id = video.video_id if named else i
    shift = {"baseline_shift": 1} if named else {}
    return Sample(sample_id, video, f"the thing no. {i} moves", kind, "test", (0, 99), (20, 60), boxes, **shift)


def a_tube(sample: Sample, i: int) -> Tube:
    """Near the annotated one, with boxes on both sides of its moment and no round number among them."""
    frames = np.arange(5, 96, 5)
    boxes = np.array([12.1 + i, 21.3, 49.7, 52.9]) + frames[:, None] / 7 * [1, 0, 1, 0]
    return Tube(sample.sample_id, 17.0 + i, 52.0 + 2 * i, frames, boxes)


VIDSTG = [a_sample(i) for i in range(len(KINDS))]
HCSTVG = [a_sample(i, named=True) for i in range(4)]


def tubes_for(samples: list[Sample]) -> dict[Id, Tube]:
    return {s.sample_id: a_tube(s, i) for i, s in enumerate(samples)}


def numbers(samples: list[Sample], captions_first: bool = False) -> list[tuple[str, Sample]]:
    """Every sample under the number that other projects give it."""
    order = CAPTIONS_FIRST if captions_first and samples is VIDSTG else range(len(samples))
    return [(str(place), samples[i]) for place, i in enumerate(order)]


def tubedetr(samples: list[Sample], tubes: dict[Id, Tube]) -> dict[str, Any]:
    """As TubeDETR's log_stats.json."""
    boxes, moments = {}, {}
    for number, sample in numbers(samples):
        tube = tubes[sample.sample_id]
        for frame, box in zip(tube.frames.tolist(), tube.boxes.tolist(), strict=True):
            boxes[f"{number}_{frame}"] = {"boxes": [box]}
        moments[number] = {"sted": [int(tube.start), int(tube.end)], "qtype": sample.qtype}
    found = {"declarative_viou": 0.1, "predictions": boxes, "video_predictions": moments, "vid_metrics": {}}
    return {"test_vidstg_vidstg": found, "test_loss": 1.0, "n_parameters": 185}


def stcat(samples: list[Sample], tubes: dict[Id, Tube]) -> dict[str, Any]:
    """As CG-STVG's test_results.json: captions first, kinds cut short, texts in lower case."""
    found: dict[str, Any] = {k: {} for k in ("predictions", "video_predictions", "vid2names", "vid2sents")}
    for number, sample in numbers(samples, captions_first=True):
        tube = tubes[sample.sample_id]
        boxes = zip(tube.frames.tolist(), tube.boxes.tolist(), strict=True)
        found["predictions"][number] = {str(frame): [box] for frame, box in boxes}
        kind = {"qtype": sample.qtype[:6].removesuffix("r") if sample.qtype[0] == "i" else "declar"}
        found["video_predictions"][number] = {"sted": [tube.start, tube.end], **({} if sample.qtype == "all" else kind)}
        found["vid2names"][number], found["vid2sents"][number] = sample.video.video_id, sample.sentence.upper()
    return found


WRITERS = {TUBEDETR: tubedetr, STCAT: stcat}


def read(path: Path, content: Any, samples: list[Sample]) -> tuple[str, dict[Id, Tube]]:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    path.write_bytes(content)
    return read_prediction_file(path, samples, CAPTIONS_FIRST if samples is VIDSTG else [])


def figures(samples: list[Sample], tubes: dict[Id, Tube], protocol: str) -> list[SampleScore]:
    return score(samples, tubes, protocol=protocol).samples


def assert_scored_alike(samples: list[Sample], mine: dict[Id, Tube], theirs: dict[Id, Tube]) -> None:
    for protocol in PROTOCOLS:
        for a, b in zip(figures(samples, mine, protocol), figures(samples, theirs, protocol), strict=True):
            assert (a.sample_id, a.qtype) == (b.sample_id, b.qtype)
            assert (a.tIoU, a.vIoU, a.gt_vIoU) == pytest.approx((b.tIoU, b.vIoU, b.gt_vIoU), abs=1e-9)
            assert a.gt_vIoU > 0.3, "an overlap to lose"


# --- every format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [VIDSTG, HCSTVG], ids=["vidstg", "hcstvg"])
@pytest.mark.parametrize("name", WRITERS)
def test_the_same_tubes_score_the_same_in_every_format(tmp_path: Path, name: str, samples: list[Sample]) -> None:
    tubes = tubes_for(samples)
    found = read(tmp_path / "x.json", WRITERS[name](samples, tubes), samples)
    assert found[0] == name
    assert_scored_alike(samples, tubes, found[1])


def test_the_challenge_that_is_exported_is_read_back_to_equal_scores(tmp_path: Path) -> None:
    tubes = tubes_for(HCSTVG)
    write_challenge(tmp_path / "x.json", HCSTVG, tubes)
    name, found = read_prediction_file(tmp_path / "x.json", HCSTVG)
    assert name == CHALLENGE
    assert_scored_alike(HCSTVG, tubes, found)


def test_lines_are_told_from_every_other_format(tmp_path: Path) -> None:
    tubes = tubes_for(VIDSTG)
    write_predictions(tmp_path / "x.jsonl", tubes.values(), {s.sample_id: s for s in VIDSTG})
    name, found = read_prediction_file(tmp_path / "x.jsonl", VIDSTG, CAPTIONS_FIRST)
    assert name == LINES
    assert_scored_alike(VIDSTG, tubes, found)


PACKINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-8 with a mark": lambda t: t.encode("utf-8-sig"),
    "UTF-16": lambda t: t.encode("utf-16"),
    "UTF-16 big-endian with a mark": lambda t: b"\xfe\xff" + t.encode("utf-16-be"),
    "UTF-16 without a mark": lambda t: t.encode("utf-16-le"),
    "UTF-32": lambda t: t.encode("utf-32"),
    "gzip": lambda t: gzip.compress(t.encode()),
    "gzipped UTF-16": lambda t: gzip.compress(t.encode("utf-16")),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_encoding_and_gzip_are_read_whatever_the_name(tmp_path: Path, packing: str) -> None:
    tubes = tubes_for(HCSTVG)
    write_predictions(tmp_path / "lines", tubes.values())
    lines = (tmp_path / "lines").read_text().replace("\n", "\r\n")
    write_challenge(tmp_path / "challenge", HCSTVG, tubes)
    foreign = [(tmp_path / "challenge").read_text(), json.dumps(stcat(HCSTVG, tubes), indent=1)]
    for text, expected in zip([lines, *foreign], (LINES, CHALLENGE, STCAT), strict=True):
        name, found = read(tmp_path / "any.name", PACKINGS[packing](text), HCSTVG)
        assert (name, len(found)) == (expected, len(HCSTVG))
        assert_scored_alike(HCSTVG, tubes, found)


def test_the_torch_file_of_stcat_is_read_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    tubes = tubes_for(VIDSTG)
    content = stcat(VIDSTG, tubes)
    for key in ("predictions", "video_predictions"):
        content[key] = {int(k): v for k, v in content[key].items()}
    content["predictions"] = {k: {int(f): b for f, b in v.items()} for k, v in content["predictions"].items()}
    content["vid_metrics"] = {0: {"viou": np.float64(0.5), "tiou": np.float32(0.5)}}
    torch.save(content, tmp_path / "test_results.pt")
    name, found = read_prediction_file(tmp_path / "test_results.pt", VIDSTG, CAPTIONS_FIRST)
    assert name == STCAT
    assert_scored_alike(VIDSTG, tubes, found)
    torch.save({"predictions": Path("x")}, tmp_path / "more.pt")
    with pytest.raises(PredictionError, match="cannot be read as a torch file"):
        read_prediction_file(tmp_path / "more.pt", VIDSTG)


# --- whose number is it --------------------------------------------------------------------------------------------------


def test_a_file_that_counts_captions_first_and_one_that_counts_questions_first_are_told_apart(tmp_path: Path) -> None:
    """By the kinds alone, since not every project stores sentences."""
    tubes = tubes_for(VIDSTG)
    theirs = stcat(VIDSTG, tubes)
    ours = {k: {} for k in ("predictions", "video_predictions")} | {"vid2sents": {}}
    for place, i in enumerate(CAPTIONS_FIRST):
        for key in ours:
            ours[key][str(i)] = theirs[key][str(place)]
    for content in (theirs, ours):
        del content["vid2sents"]
        assert_scored_alike(VIDSTG, tubes, read(tmp_path / "x.json", content, VIDSTG)[1])


def test_a_number_that_may_mean_two_sentences_is_refused_with_both(tmp_path: Path) -> None:
    content = stcat(VIDSTG, tubes_for(VIDSTG))
    del content["vid2sents"], content["vid2names"]
    for moment in content["video_predictions"].values():
        del moment["qtype"]
    with pytest.raises(PredictionError, match="sample 0: the number may mean two sentences") as caught:
        read(tmp_path / "x.json", content, VIDSTG)
    assert "thing no. 0" in str(caught.value)
    assert "thing no. 2" in str(caught.value)
    assert '{"sample_id":' in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("vid2names", "another"), ("vid2sents", "another thing moves"), ("qtype", "inter")]
)
def test_a_file_of_another_split_is_refused_by_what_it_says_of_a_sample(tmp_path: Path, field: str, value: str) -> None:
    content = stcat(VIDSTG, tubes_for(VIDSTG))
    if field == "qtype":
        content["video_predictions"]["4"][field] = value
    else:
        content[field]["4"] = value
    with pytest.raises(PredictionError, match=f"{field}: says another sample than its number") as caught:
        read(tmp_path / "x.json", content, VIDSTG)
    assert value in caught.value.facts["found"]


def test_a_part_of_a_split_keeps_its_samples(tmp_path: Path) -> None:
    """STCAT leaves samples with faulty boxes out."""
    tubes = tubes_for(VIDSTG)
    content = stcat(VIDSTG, tubes)
    for key in content:
        del content[key]["2"]
    _, found = read(tmp_path / "x.json", content, VIDSTG)
    assert found.keys() == tubes.keys() - {0}
    assert_scored_alike([s for s in VIDSTG if s.sample_id != 0], {k: v for k, v in tubes.items() if k}, found)


def test_a_video_with_several_sentences_is_refused_where_the_format_names_none(tmp_path: Path) -> None:
    record = {"st_frame": 13, "ed_frame": 14, "bbox": {"13": [1, 2, 30, 40], "14": [1, 2, 31, 41]}}
    with pytest.raises(PredictionError, match="sample v0: the video has 4 sentences") as caught:
        read(tmp_path / "x.json", {"v0": record}, VIDSTG)
    assert caught.value.facts["found"] == "0, 1, 2, 3"
    alone = [replace(VIDSTG[4], sample_id="own")]
    assert read(tmp_path / "x.json", {"v1": record}, alone)[1]["own"].end == 14


# --- faults --------------------------------------------------------------------------------------------------------------


def changed(content: dict[str, Any], *keys: str, to: Any) -> dict[str, Any]:
    """A copy with one value replaced, or left out for an ellipsis."""
    copy = json.loads(json.dumps(content))
    at = copy
    for key in keys[:-1]:
        at = at[key]
    if to is ...:
        del at[keys[-1]]
    else:
        at[keys[-1]] = to
    return copy


T, C = tubedetr(HCSTVG, tubes_for(HCSTVG)), stcat(HCSTVG, tubes_for(HCSTVG))
RECORD = {"st_frame": 13, "ed_frame": 14, "bbox": {"13": [1, 2, 30, 40], "14": [1, 2, 31, 41]}}
H = {"0_x.mp4": RECORD, "1_x.mp4": RECORD}
OF_T = ("test_vidstg_vidstg", "predictions")
FAULTS = {
    "a box of three": (changed(T, *OF_T, "1_20", to={"boxes": [[1, 2, 3]]}), r"sample 1, predictions\[20\]: not a box"),
    "two boxes": (changed(T, *OF_T, "1_20", to={"boxes": [[1, 2, 3, 4]] * 2}), "not one box"),
    "a key without a frame": (changed(T, *OF_T, "17", to={"boxes": [[1, 2, 3, 4]]}), "no frame in the key"),
    "a frame that is none": (changed(T, *OF_T, "1_x", to={"boxes": [[1, 2, 3, 4]]}), "sample 1, .*not a frame number"),
    "no moment": (changed(T, "test_vidstg_vidstg", "video_predictions", "2", to=...), "sample 2, .*and no moment"),
    "no moments": (changed(T, "test_vidstg_vidstg", "video_predictions", to=...), "boxes and no moments"),
    "two datasets": (T | {"test_hcstvg_hcstvg": T["test_vidstg_vidstg"]}, "results of several datasets"),
    "no box": (changed(C, "predictions", "2", to=...), "sample 2, predictions: there is a moment and no box"),
    "no boxes": (changed(C, "predictions", "2", to={}), "sample 2, predictions: no box at all"),
    "boxes in a list": (changed(C, "predictions", "2", to=[[1, 2, 3, 4]]), "sample 2, predictions: not boxes by frame"),
    "a box inside out": (changed(C, "predictions", "2", "20", to=[[9, 2, 3, 4]]), "ends before it begins"),
    "not finite": (changed(C, "predictions", "2", "20", to=[[1, 2, float("nan"), 4]]), "is not finite"),
    "half a moment": (changed(C, "video_predictions", "2", "sted", to=[4]), "sample 2, video_predictions.sted: not a"),
    "a text": (changed(C, "video_predictions", "2", "sted", to=["a", 4]), "video_predictions.sted: not a number"),
    "a number of none": (C | {k: C[k] | {"9": C[k]["2"]} for k in C}, 'this split has no sample "9"'),
    "nothing": (C | {"predictions": {}, "video_predictions": {}}, "holds no prediction"),
    "frames from 0": (changed(H, "0_x.mp4", "st_frame", to=0), "sample 0_x.mp4, st_frame: frames are counted from 1"),
    "a box at 0": (changed(H, "0_x.mp4", "bbox", "0", to=[1, 2, 3, 4]), "sample 0_x.mp4, bbox: not a frame number"),
    "no end": (changed(H, "1_x.mp4", "ed_frame", to=...), "sample 1_x.mp4, ed_frame: the field is missing"),
    "a list of boxes": (changed(H, "1_x.mp4", "bbox", to=[[1, 2, 3, 4]]), "sample 1_x.mp4, bbox: not an object"),
    "of no format": ({"results": []}, "is in no format that is known"),
    "metrics alone": (changed(T, "test_vidstg_vidstg", "predictions", to=...), "is in no format that is known"),
    "cut gzip": (gzip.compress(json.dumps(C).encode())[:-30], "damaged gzip"),
    "cut UTF-16": (json.dumps(C).encode("utf-16")[:-1], "is not text"),
    "a zip archive": (b"PK\x03\x04" + bytes(40), "cannot be read as a torch file"),
    "a key twice": (json.dumps(H).replace("1_x", "0_x").encode(), "is given twice"),
}


@pytest.mark.parametrize("content", FAULTS)
def test_a_fault_is_told_by_file_sample_and_field(tmp_path: Path, content: str) -> None:
    given, message = FAULTS[content]
    with pytest.raises(PredictionError, match=message) as caught:
        read(tmp_path / "x.json", given, HCSTVG)
    assert str(tmp_path / "x.json") in str(caught.value)


def test_an_unknown_video_of_the_challenge_is_unknown_as_in_lines(tmp_path: Path) -> None:
    _, found = read(tmp_path / "x.json", {"3_y.mp4": H["0_x.mp4"]}, HCSTVG)
    with pytest.raises(PredictionError, match="samples that this split does not have") as caught:
        score(HCSTVG, found)
    assert "did you mean" in str(caught.value)


def test_a_foreign_file_needs_the_samples_it_counts(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(C))
    with pytest.raises(PredictionError, match='no sample "0"'):
        read_predictions(tmp_path / "x.json")


# --- the command ---------------------------------------------------------------------------------------------------------


def test_evaluate_says_what_a_file_was_read_as_and_scores_it(
    stvg: Callable[..., Any], synthetic: Path, tmp_path: Path
) -> None:
    from stvg.extract.datasets.readers import read_annotations

    read_in = read_annotations("vidstg", synthetic, "test", for_scoring=True)
    samples = {s.sample_id: s for s in read_in.samples}
    assert sorted(read_in.captions_first) == sorted(samples)
    assert read_in.captions_first != sorted(samples), "records with both kinds"
    content: dict[str, Any] = {"predictions": {}, "video_predictions": {}}
    for place, number in enumerate(read_in.captions_first):
        sample = samples[number]
        content["predictions"][place] = {sample.moment[0] + i: [box.tolist()] for i, box in enumerate(sample.boxes)}
        content["video_predictions"][place] = {"sted": sample.moment, "qtype": sample.qtype}
    (tmp_path / "x.json").write_text(json.dumps(content))
    words = ["--dataset", "vidstg", "--annotations", synthetic, "--json", tmp_path / "scores.json"]
    found = stvg("evaluate", "--predictions", tmp_path / "x.json", *words, "--protocol", "dense")
    assert found.code == 0, found.err
    assert f"was read as {STCAT}; tubes: {len(samples)}" in found.err
    means = json.loads((tmp_path / "scores.json").read_text())["groups"]
    assert all(group["m_vIoU"] == group["m_tIoU"] == group["gt_vIoU"] == 1 for group in means.values())
