"""The names of devices: what cannot compute is refused in a few lines, whatever torch has to say about it."""

from __future__ import annotations

import pytest
import torch

from stvg.cli import cli
from stvg.errors import UsageError
from stvg.options import choose_device, gpus

NAMES = ["mps", "xla", "hpu", "vulkan", "opencl", "privateuseone", "mkldnn", "meta", "gpu", "CPU", "cpu:", "cuda:x"]
NAMES += ["cuda:-1", "cuda:999", "cuda:99999999999", "cpu,cpu", "", " ", "\0", "é"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_device_that_cannot_compute_here_is_refused_with_what_there_is(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(UsageError, match="cannot be used") as refused:
        choose_device(name)
    said = str(refused.value).splitlines()
    assert len(said) <= 4
    assert max(map(len, said)) < 160
    assert "cpu" in refused.value.facts["expected"]
    assert "aten::" not in str(refused.value)


def test_the_processor_is_a_device_and_so_is_what_is_best():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("count", "names"), [(0, " (no GPU is found)"), (1, " or cuda"), (4, ", cuda, cuda:0 … cuda:3")]
)
def test_the_gpus_of_a_machine_are_named(count, names):
    assert gpus(count) == names


@pytest.mark.parametrize("names", ["mps", "cpu,", "", "cpu,meta"])
def test_extract_refuses_a_list_of_devices_with_one_that_cannot_compute(tmp_path, names):
    words = ["extract", "--dataset", "vidstg", "--annotations", str(tmp_path), "--videos", str(tmp_path)]
    with pytest.raises(UsageError, match="cannot be used"):
        cli.main([*words, "--out", str(tmp_path / "cache"), "--devices", names], standalone_mode=False)
