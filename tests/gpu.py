"""A GPU that is not there: tensors that say they lie on one, and are computed by the processor.

What it can show: that nothing is left behind on the processor or brought together from both places, that the ways taken
on a GPU compute what those of a CPU do, and how often the program waits for the device. Not speed, nor what CUDA's own
kernels give.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from stvg.cache.batches import order
from stvg.cache.stores import buffers

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
BETWEEN = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
"""Indices may lie on the processor."""
ASKING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal")
"""Their result, or its size, must be known before the program can go on."""


class OnGpu(Tensor):
    """A tensor on the pretended GPU; ``held`` is what it stands for. To torch's own code it lies on the meta device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})


class PretendedGpu(TorchDispatchMode):
    """While entered, what is asked to be made on, or moved to, a GPU becomes an `OnGpu`. ``waits``: see `ASKING`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits_for_gpu(function._schema.name, args, kwargs or {}):
            self.waits.append(function._schema.name)
        return compute(function, args, kwargs or {})


def waits_for_gpu(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation has to know what a tensor on the GPU holds."""
    if not any(isinstance(leaf, OnGpu) for leaf in tree_leaves((args, kwargs))):
        return False
    if name in BETWEEN:
        return isinstance(args[0], OnGpu) and kwargs.get("device") == CPU
    by_mask = name in INDEXING and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
    return by_mask or name in ASKING


def compute(function: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on what the tensors hold. AssertionError when it brings tensors of both places together."""
    name, tensors = function._schema.name, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, OnGpu)]
    left = [t for t in tensors if not isinstance(t, OnGpu)]
    if single_numbers_may_lie_anywhere(function, args):
        left = [t for t in left if t.dim()]
    shapes = [tuple(t.shape) for t in left]
    assert not (there and left) or name in BETWEEN + INDEXING, (
        f"{function}: {shapes} on the processor, others on the GPU"
    )
    asked, held = kwargs.get("device"), {id(t.held): t for t in there}
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    # Tensors made in inference mode cannot be stood for.
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext(), torch.no_grad():
        found = function(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
        on_gpu = bool(there) if asked is None else torch.device(asked).type != "cpu"
        if name == "aten::copy_":
            on_gpu = isinstance(args[0], OnGpu)
        if not on_gpu:
            return found
        return tree_map(lambda t: held.get(id(t), OnGpu(t)) if isinstance(t, Tensor) else t, found)


def single_numbers_may_lie_anywhere(function: Any, args: Any) -> bool:
    """Whether an operation brings tensors of one number over to the GPU itself: elementwise ones do, unless they write
    into one."""
    writes = function._schema.is_mutable and isinstance(args[0], Tensor) and not isinstance(args[0], OnGpu)
    return torch.Tag.pointwise in function.tags and not writes


def unwrapped(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Inside, ``cuda:0`` exists, whatever machine this is."""
    torch._C._ensureCUDADeviceGuardSet()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # which is done all the same
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 0)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
        patch.setattr(torch.cuda, "get_device_properties", lambda device=None: SimpleNamespace(total_memory=80 * 2**30))
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a pretended GPU")
        patch.setattr(order, "memory_for", lambda device: buffers.fresh)  # there is no driver to pin pages for
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with PretendedGpu() as mode:
                yield mode
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
