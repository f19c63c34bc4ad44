"""One process of several that torchrun did not start is refused, whoever started it."""

from __future__ import annotations

import pytest

from stvg.errors import UsageError
from stvg.heads.training.launched import require_alone, require_alone_or_torchrun

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "1"},
        {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "3"},
    ],
)
def test_one_of_several_is_refused_and_told_by_which_variable(environment):
    with pytest.raises(UsageError, match="one process of several") as refused:
        require_alone_or_torchrun(environment)
    assert any(f"{name}={value}" in refused.value.facts["found"] for name, value in environment.items())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"WORLD_SIZE": ""},
        TORCHRUN,
        {**TORCHRUN, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
    ],
    ids=["nothing", "a world of one", "empty", "torchrun", "torchrun on two nodes", "a step of one task"],
)
def test_one_process_alone_and_those_of_torchrun_are_not(environment):
    require_alone_or_torchrun(environment)


def test_an_ablation_is_one_process_under_torchrun_too():
    with pytest.raises(UsageError, match="stvg ablate is one process"):
        require_alone("stvg ablate", "--devices", TORCHRUN)


def test_the_commands_refuse_before_they_write(stvg, tiny_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for command in ("train-head", "ablate"):
        ran = stvg(command, "--cache", tiny_cache, "--out", tmp_path / "out")
        assert ran.code == 1
        assert "SLURM_NTASKS=2" in ran.err
        assert not (tmp_path / "out").exists()
