"""Requests: a default and its choices stand in one place, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stvg.cli import cli
from stvg.errors import UsageError
from stvg.evaluate.ablation.request import AblateRequest
from stvg.evaluate.grounding.request import Ground
from stvg.evaluate.scoring import CheckpointScoring, HeadScoring, PredictionScoring
from stvg.extract.request import ExtractRequest
from stvg.requested import PROTOCOLS, Request, names_of, one_of, option, require_known

KINDS = {"a": 1, "b": 2}


@dataclass(frozen=True)
class Asked(Request):
    place: str
    kind: str = one_of(KINDS, "b")
    several: int = 3
    strict: bool = False
    name: str | None = None


def ran(*arguments: str) -> str:
    @click.command()
    @option(Asked, "place")
    @option(Asked, "kind")
    @option(Asked, "several", "-n", "several", help="How many.")
    @option(Asked, "strict")
    @option(Asked, "name")
    def command(**given: object) -> None:
        click.echo(Asked(**given))  # type: ignore[arg-type]

    return CliRunner().invoke(command, arguments).output


def test_options_have_the_defaults_of_their_request():
    assert ran("--place", "x") == f"{Asked('x')}\n"


def test_options_are_read_as_what_their_field_is():
    assert (
        ran("--place", "x", "--kind", "a", "-n", "7", "--strict", "--name", "y") == f"{Asked('x', 'a', 7, True, 'y')}\n"
    )


@pytest.mark.parametrize(("arguments", "said"), [((), "Missing option '--place'"), (("--kind", "c"), "'a', 'b'")])
def test_options_refuse_what_their_request_refuses(arguments, said):
    assert said in ran(*arguments)


def test_help_shows_defaults_and_choices_of_the_request():
    shown = ran("--help")
    assert "[a|b]" in shown
    assert "[default: b]" in shown
    assert "[default: 3]" in shown


def test_a_value_that_is_no_choice_is_refused_with_the_choices_and_the_nearest():
    with pytest.raises(UsageError, match="there is no kind 'bb'") as error:
        Asked("x", kind="bb")
    assert "a, b" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AblateRequest, {"seeds": 0}),
        (AblateRequest, {"seeds": "2"}),
        (HeadScoring, {"max_frames": 0}),
        (ExtractRequest, {"fps": 0.0}),
        (ExtractRequest, {"resolution": "96"}),
        (Ground, {"moments": 21}),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(kind, wrong):
    needed = {"caches": {}, "asked": None, "dataset": "json", "annotations": Path("a"), "out": Path("b")}
    needed |= {"checkpoint": Path("c")}
    ((name, value),) = wrong.items()
    given = {k: v for k, v in needed.items() if k in names_of(kind)} | wrong
    with pytest.raises(UsageError, match=rf"{name} is {value!r}\n +expected +(at least|more than)"):
        kind(**given)


def test_an_option_there_is_none_of_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="evaluate has no option 'protocoll'") as error:
        require_known(["protocoll"], names_of(HeadScoring), "evaluate")
    assert "protocol" in str(error.value)


@pytest.mark.parametrize("kind", [CheckpointScoring, PredictionScoring])
def test_both_ways_of_scoring_know_every_protocol(kind):
    assert kind.__dataclass_fields__["protocol"].metadata["within"] == PROTOCOLS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "a"], "needs --cache"),
        (["--checkpoint", "a", "--cache", "b", "--fps", "3"], "--checkpoint does not go with --fps"),
        (["--checkpoint", "a", "--cache", "b", "--allow-missing"], "--checkpoint does not go with --allow-missing"),
        (["--predictions", "a"], "needs --dataset and --annotations"),
        (["--predictions", "a", "--dataset", "json", "--annotations", "b", "--cache", "c"], "does not go with --cache"),
        (["--predictions", "a", "--dataset", "json", "--annotations", "b", "--text-weights", "c"], "--text-weights"),
        (["--predictions", "a", "--dataset", "json", "--annotations", "b", "--out", "c.jsonl"], "--out"),
        (["--predictions", "a", "--checkpoint", "b"], "give either"),
        ([], "give either"),
    ],
)
def test_options_that_do_not_go_together_are_named_before_anything_is_read(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["evaluate", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
