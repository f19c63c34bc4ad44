"""What a user types and reads: every command on real files, and one clear message for every kind of bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

SMALL = ["--set", "train.epochs=1", "--set", "train.batch_size=8", "--set", "model.ffn=32", "--device", "cpu"]


def test_help_is_quick_to_load_and_lists_the_commands_in_working_order():
    code = "import sys; from stvg.cli import cli; print(*[m for m in ('torch', 'pandas', 'av') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
    from stvg.cli import cli

    assert list(cli.commands) == [
        "demo",
        "dataset",
        "encoder",
        "extract",
        "cache",
        "weights",
        "train-head",
        "runs",
        "evaluate",
        "report",
        "ablate",
        "predict",
    ]


@pytest.mark.parametrize(
    "words",
    [
        *[
            [],
            ["demo"],
            ["dataset"],
            ["dataset", "check"],
            ["dataset", "make"],
            ["dataset", "import"],
            ["dataset", "new"],
            ["dataset", "show"],
            ["dataset", "export"],
            ["extract"],
        ],
        *[
            ["cache", *command]
            for command in ([], ["info"], ["verify"], ["convert"], ["merge"], ["remove-annotations"])
        ],
        *[["weights"], ["weights", "import"], ["train-head"], ["evaluate"], ["report"], ["ablate"], ["predict"]],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(stvg, words):
    ran = stvg(*words, "--help")
    assert ran.code == 0
    assert "Usage: stvg" in ran.out


def all_commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in all_commands(command))


def test_the_list_of_commands_cuts_no_sentence_off():
    from stvg.cli import cli

    cut = {
        name: shown for name, command in all_commands(cli) if (shown := command.get_short_help_str(58)).endswith("...")
    }
    assert cut == {}


def test_a_mistyped_command_is_answered_with_the_nearest(stvg):
    ran = stvg("evalute")
    assert ran.code == 2
    assert "did you mean 'evaluate'?" in ran.err


def test_train_evaluate_and_score_the_written_predictions_agree(stvg, synthetic, tiny_cache, tmp_path):
    run = tmp_path / "run"
    log = run / "train.log"
    ran = stvg("train-head", "--cache", tiny_cache, "--out", run, "--preset", "tiny", *SMALL, "--log", log)
    assert ran.code == 0, ran.err
    plan = next(line for line in ran.err.splitlines() if line.startswith("training "))
    assert re.fullmatch(
        r"training \d+ steps \(\d+ epochs of \d+ samples in batches of \d+\); fsm, [\d,]+ parameters that train; "
        rf"no validation, so the best is the last; on (cpu|cuda) → {re.escape(str(run))}",
        plan,
    )
    logged = [line[20:] for line in log.read_text().splitlines()]
    assert logged == [*ran.err.splitlines(), *ran.out.splitlines()]
    best = run / "best.safetensors"
    assert best.exists()
    tubes, ours, theirs = tmp_path / "tubes.jsonl", tmp_path / "a.json", tmp_path / "b.json"
    words = ["--checkpoint", best, "--cache", tiny_cache, "--split", "test", "--device", "cpu"]
    ran = stvg("evaluate", *words, "--out", tubes, "--json", ours)
    assert ran.code == 0, ran.err
    assert "declarative" in ran.out
    words = ["--predictions", tubes, "--dataset", "vidstg", "--annotations", synthetic, "--split", "test"]
    ran = stvg("evaluate", *words, "--max-frames", "40", "--json", theirs)
    assert ran.code == 0, ran.err
    a, b = json.loads(ours.read_text()), json.loads(theirs.read_text())
    ran = stvg("evaluate", "--compare", ours, theirs)
    assert ran.code == 0, ran.err
    assert "+0.00" in ran.out
    assert a == b
    assert set(a) == {"protocol", "fps", "max_frames", "scored", "missing", "groups", "intervals", "samples"}
    assert set(a["groups"]) == {"declarative", "interrogative"}
    assert set(a["groups"]["declarative"]) == {"m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "gt_vIoU"}
    assert set(a["samples"][0]) == {"sample_id", "video_id", "sentence", "qtype", "tIoU", "vIoU", "gt_vIoU"}


def test_the_batch_size_of_an_evaluation_is_a_number_or_found_out(stvg, checkpoint, tiny_cache, tmp_path):
    words = ["evaluate", "--checkpoint", checkpoint, "--cache", tiny_cache, "--device", "cpu", "--json", tmp_path / "a"]
    found = []
    for size in ("auto", "3"):
        ran = stvg(*words, "--batch-size", size)
        assert ran.code == 0, ran.err
        assert ("clips at once" in ran.err) == (size == "auto")
        found.append([s["vIoU"] for s in json.loads((tmp_path / "a").read_text())["samples"]])
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    ran = stvg(*words, "--batch-size", "0")
    assert ran.code == 2
    assert "'0' is neither a number of clips nor auto" in ran.err


def test_a_report_of_a_head_holds_its_evidence_its_training_and_the_run_it_is_set_beside(
    stvg, synthetic, tiny_cache, checkpoint, tmp_path
):
    def data(name):
        return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*)</script>', text)[1])

    words = ["--checkpoint", checkpoint, "--cache", tiny_cache, "--device", "cpu"]
    assert stvg("evaluate", *words, "--json", tmp_path / "a.json").code == 0
    scores, page = json.loads((tmp_path / "a.json").read_text())["samples"], tmp_path / "report.html"
    beside = ["--against", tmp_path / "a.json", "--videos", synthetic / "vidor/video", "--pictures", 4]
    ran = stvg("report", *words, *beside, "--name", "a <run>", "--out", page)
    assert ran.code == 0, ran.err
    assert "4 samples with frames" in ran.out
    text = page.read_text()
    assert "a &lt;run&gt;" in text
    assert '<section id="training"' in text
    assert data("index")["id"] == [s["sample_id"] for s in scores]
    assert [data("index")["vIoU"]] == data("index")["before"] == [[round(s["vIoU"], 4) for s in scores]]
    rows = data("details-0")["rows"]
    assert all({"start", "end", "looked_at"} <= set(row) for row in rows)
    assert sum("attention" in row for row in rows) == 4
    says(stvg("report", *words, "--metrics", tmp_path / "none", "--out", page), "UsageError", "none")
    says(stvg("report", *words, "--videos", tmp_path / "none", "--out", page), "UsageError", "--videos DIR")


def test_a_cache_trains_and_scores_with_videos_and_annotations_deleted(stvg, synthetic, tmp_path):
    data = shutil.copytree(synthetic, tmp_path / "data")
    cache = tmp_path / "cache"
    words = ["--dataset", "vidstg", "--annotations", data, "--split", "train", "--split", "test", "--out", cache]
    ran = stvg("extract", *words, "--backbone", "tiny", "--resolution", "64", "--store", "hdf5", "--device", "cpu")
    assert re.search(
        r"^extracting 8 videos \(\d+ sentences of train, test\), 5 frames a second, 64 px; tiny and tiny; on cpu → ",
        ran.err,
        re.MULTILINE,
    )
    assert ran.code == 0, ran.err
    assert "8 videos done" in ran.out
    shutil.rmtree(data)
    run = tmp_path / "run"
    assert stvg("train-head", "--cache", cache, "--out", run, "--preset", "tiny", *SMALL).code == 0
    words = ["--checkpoint", run / "best.safetensors", "--cache", cache, "--split", "test", "--device", "cpu"]
    ran = stvg("evaluate", *words, "--protocol", "dense", "--style", "markdown")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("|")


def test_cache_info_says_how_it_was_made_and_verify_names_a_flipped_bit(stvg, own_cache):
    ran = stvg("cache", "info", own_cache)
    assert ran.code == 0
    assert re.search(r"videos +8 complete, 0 partly, 0 missing of 8", ran.out)
    assert re.search(r"resolution +96", ran.out)
    assert stvg("cache", "verify", own_cache).code == 0
    victim = max((p for p in (own_cache / "videos").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 4
    victim.write_bytes(content)
    ran = stvg("cache", "verify", own_cache)
    assert ran.code == 1
    assert "1 problem\n" in ran.out
    assert "--repair would remove 1" in ran.out
    assert "videos/" in ran.err
    assert stvg("cache", "verify", own_cache, "--repair").code == 1
    assert re.search(r"videos +7 complete, 0 partly, 1 missing of 8", stvg("cache", "info", own_cache).out)
    ran = stvg("cache", "verify", own_cache)
    assert ran.code == 1
    assert "needs it, and it is not in the skip list" in ran.err


def test_cache_info_gives_every_size_as_json_too(stvg, tiny_cache):
    found = json.loads(stvg("cache", "info", tiny_cache, "--json").out)
    assert found["videos"] == {"stored": 8, "added_to": 0, "skipped": 0}
    (one,) = found["annotation_sets"]
    assert (one["name"], one["dataset"], list(one["splits"])) == ("vidstg", "vidstg", ["train", "test"])
    assert (one["coverage"]["complete"], one["coverage"]["videos"]) == (8, 8)
    assert one["coverage"]["sentences"] == found["sentences"]
    assert set(found["arrays"]) == {"c5", "c3_roi", "c4_roi", "hidden"}
    assert found["arrays"]["c5"]["rows"] == found["frames"]
    assert found["bytes"] == sum(level["bytes"] for level in found["arrays"].values())
    assert stvg("cache", "info", tiny_cache).out.count("float16") == 5


def test_a_cache_is_converted_there_and_back_and_merged_of_itself(stvg, tiny_cache, tmp_path):
    assert stvg("cache", "convert", tiny_cache, tmp_path / "b", "--store", "hdf5").code == 0
    assert stvg("cache", "convert", tmp_path / "b", tmp_path / "c", "--store", "zarr").code == 0
    ran = stvg("cache", "merge", tmp_path / "d", tiny_cache, tmp_path / "c")
    assert ran.code == 0, ran.err
    assert "9 units of 2 shards" in ran.out
    assert stvg("cache", "verify", tmp_path / "d", "--jobs", "3").code == 0
    says(stvg("cache", "merge", tmp_path / "e", tiny_cache, tmp_path / "b"), "CacheError", "stvg cache convert")


def says(ran, *parts):
    """One message, no traceback, exit status 1, and each of the parts in it."""
    assert ran.code == 1, (ran.code, ran.out, ran.err)
    assert "Traceback" not in ran.err
    assert ran.err.count("stvg: ") == 1
    for part in parts:
        assert part in ran.err, ran.err


def test_missing_folders_are_named(stvg, tmp_path):
    nowhere = tmp_path / "nowhere"
    says(stvg("cache", "info", nowhere), "CacheError", str(nowhere), "stvg extract")
    says(stvg("train-head", "--cache", nowhere), "CacheError", str(nowhere))
    words = ["extract", "--dataset", "vidstg", "--annotations", nowhere, "--out", tmp_path / "c", "--backbone", "tiny"]
    says(stvg(*words), str(nowhere))
    assert not (tmp_path / "c").exists()


def test_malformed_json_wrong_types_and_empty_sentences_name_file_record_and_field(stvg, synthetic, tmp_path):
    data = shutil.copytree(synthetic, tmp_path / "data")
    file = data / "annotations/test_annotations.json"
    records = json.loads(file.read_text())
    words = ["extract", "--dataset", "vidstg", "--annotations", data, "--split", "test", "--out", tmp_path / "c"]
    words += ["--backbone", "tiny", "--resolution", "64", "--device", "cpu"]

    def attempt(change):
        broken = json.loads(json.dumps(records))
        change(broken)
        file.write_text(json.dumps(broken))
        return stvg(*words)

    says(attempt(lambda r: r[1].update(fps="ten")), "AnnotationError", file.name, "record 1", "fps", "expected", "ten")
    says(attempt(lambda r: r[1].pop("width")), "record 1", "width")
    says(attempt(lambda r: r[0]["captions"][0].update(description="  ")), "record 0", "captions", "description")
    file.write_text('[{"vid": ')
    says(stvg(*words), "AnnotationError", file.name, "line 1")
    assert not (tmp_path / "c").exists()


def test_a_box_outside_the_picture_is_refused_or_its_record_dropped_and_listed(stvg, synthetic, tmp_path):
    data = shutil.copytree(synthetic, tmp_path / "data")
    record = json.loads((data / "annotations/test_annotations.json").read_text())[0]
    boxes = next(data.glob(f"vidor/annotation/validation/*/{record['vid']}.json"))
    content = json.loads(boxes.read_text())
    target = record["captions"][0]["target_id"]
    entry = next(e for e in content["trajectories"][record["temporal_gt"]["begin_fid"]] if e["tid"] == target)
    entry["bbox"] = {"xmin": 500, "ymin": 10, "xmax": 600, "ymax": 20}
    boxes.write_text(json.dumps(content))
    words = ["extract", "--dataset", "vidstg", "--annotations", data, "--split", "test", "--out", tmp_path / "c"]
    words += ["--backbone", "tiny", "--resolution", "64", "--device", "cpu"]
    says(stvg(*words), "AnnotationError", str(record["temporal_gt"]["begin_fid"]))
    ran = stvg(*words, "--on-bad-record", "skip")
    assert ran.code == 0, ran.err
    assert "AnnotationError" not in ran.out
    assert record["vid"] in ran.err
    ran = stvg("dataset", "check", "--dataset", "vidstg", "--annotations", data, "--split", "test")
    assert ran.code == 1


def test_a_truncated_checkpoint_and_another_kind_of_cache_are_refused(
    stvg, checkpoint, tiny_cache, synthetic, tmp_path
):
    from .conftest import extract_synthetic

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:3000])
    words = ["evaluate", "--cache", tiny_cache, "--device", "cpu", "--checkpoint"]
    says(stvg(*words, cut), "CheckpointError", str(cut), "3,000 bytes")
    says(stvg(*words, tmp_path / "none.safetensors"), "CheckpointError", "does not exist")
    other = extract_synthetic(synthetic, tmp_path / "cache", splits=["test"], weights_seed=1)
    ran = stvg("evaluate", "--cache", other, "--device", "cpu", "--checkpoint", checkpoint)
    says(ran, "CacheError", "visual.sha256", "text.sha256", "other features")


def test_a_damaged_header_is_said_to_be_damaged(stvg, own_cache):
    (own_cache / "cache.json").write_text('{"recipe": 7}')
    says(stvg("cache", "info", own_cache), "CacheError", "cache.json", "damaged")


def test_predictions_that_cannot_be_scored_name_file_line_and_field(stvg, synthetic, tmp_path):
    file = tmp_path / "tubes.jsonl"
    words = ["evaluate", "--predictions", file, "--dataset", "vidstg", "--annotations", synthetic, "--split", "test"]
    file.write_text('{"sample_id": 0, "start": 3, "end": 9}\n')
    says(stvg(*words), "PredictionError", "line 1", "boxes")
    file.write_text('{"sample_id": 0, "start": 3, "end": 9, "boxes": {"3": [0, 0, 9, 9]}}\n')
    says(stvg(*words), "samples have no prediction", "--allow-missing")
    ran = stvg(*words, "--allow-missing")
    assert ran.code == 0
    assert "1 of " in ran.out


def test_options_that_do_not_go_together_are_usage_errors(stvg, tmp_path):
    assert stvg("evaluate").code == 2
    assert stvg("evaluate", "--predictions", "a", "--checkpoint", "b").code == 2
    ran = stvg("evaluate", "--predictions", tmp_path / "x.jsonl")
    assert ran.code == 2
    assert "--dataset" in ran.err
    words = ("extract", "--dataset", "json", "--annotations", tmp_path, "--out", tmp_path / "new")
    for bad in (("--fps", "nan"), ("--fps", "inf"), ("--fps", "0"), ("--max-frames", "0")):
        ran = stvg(*words, *bad)
        assert ran.code == 2, bad
        assert bad[0] in ran.err
    assert stvg("encoder", "check", "tiny", "--resolution", "0").code == 2
    says(stvg("encoder", "check", "roberta-base"), "is a text encoder", "--text")
    for name in ("mine.py", "mine.py:"):
        says(stvg("encoder", "check", name), "names a file and no class", "mine.py:Class")
    says(stvg("train-head", "--cache", tmp_path, "--preset", "papr"), "did you mean 'paper'")
    says(stvg("train-head", "--cache", tmp_path, "--set", "model.num_querys=3"), "did you mean 'num_queries'")


def test_the_recorded_scores_come_out_of_the_command(stvg, shared, tmp_path):
    """Predictions of the recorded reference, written as users write them, scored by the command as users run it."""
    jobs = [("metrics_vidstg.json", "vidstg", "test", "vidstg"), ("metrics_hcstvg.json", None, None, "hcstvg")]
    for file, dataset, split, folder in jobs:
        for block in json.loads((shared / "golden" / file).read_text())["blocks"]:
            if not block["use_predicted_moment"]:
                continue
            name = dataset or f"hcstvg-v{block['version']}"
            part = split or ("test" if block["version"] == 1 else "val")
            lines, wanted = [], {}
            for s in block["samples"]:
                sample_id = s.get("video_key", s["sample_id"])
                boxes = {str(f): b for f, b in zip(s["frame_ids"], s["pred_boxes"], strict=True)}
                start, end = s["pred_sted"]
                lines.append(json.dumps({"sample_id": sample_id, "start": start, "end": end, "boxes": boxes}))
                wanted[sample_id] = s["expected"]
            tubes, out = tmp_path / "tubes.jsonl", tmp_path / "scores.json"
            tubes.write_text("\n".join(lines))
            words = ["--predictions", tubes, "--dataset", name, "--annotations", shared / "golden" / folder]
            words += ["--split", part, "--fps", block["fps"], "--max-frames", block["video_max_len"], "--json", out]
            ran = stvg("evaluate", *words, "--protocol", "tubedetr")
            assert ran.code == 0, ran.err
            scores = json.loads(out.read_text())
            for row in scores["samples"]:
                for ours, theirs in (("tIoU", "tiou"), ("vIoU", "viou"), ("gt_vIoU", "gt_viou")):
                    assert row[ours] == pytest.approx(wanted[row["sample_id"]][theirs], abs=1e-9)
            for group, means in scores["groups"].items():
                prefix = "" if group == "all" else f"{group}_"
                for ours, theirs in (("m_tIoU", "tiou"), ("m_vIoU", "viou"), ("vIoU@0.3", "viou@0.3")):
                    assert means[ours] == pytest.approx(block["summary"][prefix + theirs], abs=1e-9)


@pytest.mark.parametrize("command", ["train-head", "ablate"])
def test_the_help_of_preset_names_every_preset(stvg, command):
    from stvg.heads.presets import presets

    text = re.sub(r"(?<=\w)-\n\s+", "-", stvg(command, "--help").out)  # lines may break after a hyphen
    text = " ".join(text.split())
    assert f"{', '.join(presets())}, or a .yaml file" in text
