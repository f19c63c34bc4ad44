"""A GPU that computes nothing and counts what it is given: operations, bytes kept for the backward pass, waits.

Tensors on it have shapes and no values (torch's FakeTensor), so a step of the paper's size needs neither memory nor a GPU.
It stands for CUDA under a name of its own: torch built for CUDA would ask the driver for streams in the backward pass.
Autocast casts as CUDA's does, and attention is its fused one, which keeps no weights.

What counts as an operation: what the dispatcher hands to the device below autograd and autocast, but for
- views, and making tensors that nothing fills (`FREE`), which launch nothing;
- operations on many tensors (``_foreach_…``, ``_fused_adamw_``) count once for every so many tensors as one launch takes
  (`TENSORS`, by how many lists it reads).
An operation may be several kernels (a backward pass of attention is three), as on any GPU.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.library import Library, fallthrough_kernel
from torch.utils import _foreach_utils, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from stvg.cache.batches.batch import Batch, LiveFrames
from stvg.heads.checkpoint import EMA
from stvg.heads.losses import Criterion
from stvg.heads.model import Grounder
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import Experiment
from stvg.heads.table import build_model
from stvg.heads.training import loop as training
from stvg.heads.training.ranks import ALONE

NAME = "counting"
AUTOCAST = "AutocastPrivateUse1"
HALF = ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "conv2d")
SINGLE = (
    "layer_norm",
    "group_norm",
    "softmax.int",
    "log_softmax.int",
    "logsumexp",
    "exp",
    "log",
    "sum",
    "sum.dim_IntList",
)
SINGLE += ("cumsum", "pow.Tensor_Scalar", "rsqrt", "binary_cross_entropy_with_logits")
"""Of CUDA's lists of what autocast computes in half and in single precision, those that heads call."""
FREE = ("empty", "empty_like", "empty_strided", "new_empty")
FREE += ("detach", "_unsafe_view", "lift_fresh", "alias", "_reshape_alias")
TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Tensors of each list that one launch takes, by the number of lists (torch's MultiTensorApply)."""
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "item")


@dataclass(frozen=True)
class Counted:
    """What one training step is."""

    launched: Counter[str]
    """Operations by name."""
    kept: int
    """Bytes kept for the backward pass, beside weights and batch."""
    waits: list[str]


def counted(
    experiment: Experiment, features: FeatureFacts, batch: Batch, encoders: Callable[[], nn.Module] | None = None
) -> Counted:
    """The second step of a run on a batch, when the optimiser has its state. ``encoders``: makes those that train."""
    with counting_gpu() as gpu:
        run, there = run_of(experiment, features, device(), encoders), unfilled(batch)
        training.step(run, [there])
        gpu.reset()
        with gpu.keeping(list(run.model.parameters()), vars(there.inputs), vars(there.targets), of_live(there)):
            training.step(run, [there])
        return Counted(gpu.launched, sum(gpu.kept.values()), gpu.waits)


def run_of(
    experiment: Experiment,
    features: FeatureFacts,
    where: torch.device,
    encoders: Callable[[], nn.Module] | None = None,
) -> Any:
    """What a step needs of a run, without a cache or a folder."""
    t = experiment.train
    with where:
        head = build_model(experiment.model, features)
        head.recompute(t.recompute)
        model = Grounder(head, encoders() if encoders else None).train()
    groups = [{"params": list(model.parameters()), "name": "head", "lr": t.lr}]
    return SimpleNamespace(
        experiment=experiment,
        model=model,
        ema=EMA(model, t.ema),
        device=where,
        ranks=ALONE,
        optimizer=torch.optim.AdamW(groups, weight_decay=t.weight_decay, fused=True),
        criterion=Criterion(experiment.loss),
        step=0,
        total_steps=1000,
        steps_per_epoch=100,
    )


def unfilled(batch: Batch) -> Batch:
    """A batch of the same shapes on the device."""
    assert batch.targets is not None
    inputs, targets = copy.copy(batch.inputs), copy.copy(batch.targets)
    for group in (inputs, targets):
        vars(group).update(tree_map(like, vars(group)))
    live = tuple(LiveFrames(like(group.rows), like(group.values)) for group in batch.live)
    return replace(batch, inputs=inputs, targets=targets, live=live)


def of_live(batch: Batch) -> list[Tensor]:
    return [tensor for group in batch.live for tensor in (group.rows, group.values)]


def like(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device=device()) if isinstance(value, Tensor) else value


class Counting(TorchDispatchMode):
    """Counts while entered. ``launched``: operations by name; ``waits``: those whose result the program must know."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.waits: list[str] = []
        self.kept: dict[int, int] = {}
        """Bytes of every storage that was kept for a backward pass."""
        self.known: set[int] = set()
        """Storages that were there before."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if name.startswith("prim::"):  # questions about a tensor
            return function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        here = [t for t in tensors if t.device.type == NAME]
        if name in WAITS or (name in ("_to_copy", "copy_") and here and len(here) < len(tensors)):
            if here:
                self.waits.append(name)
            if name == "_local_scalar_dense":
                return True if tensors[0].dtype == torch.bool else 1.0
        found = function(*args, **(kwargs or {}))
        if (here or any(t.device.type == NAME for t in tree_leaves(found) if isinstance(t, Tensor))) and not free(
            function
        ):
            self.launched[name] += launches(name, args)
        return found

    def reset(self) -> None:
        self.launched.clear()
        self.waits.clear()
        self.kept.clear()

    @contextmanager
    def keeping(self, *before: Any) -> Iterator[None]:
        """Notes what is kept for a backward pass, beside the tensors of ``before``."""
        self.known = {storage(t) for t in tree_leaves(before) if isinstance(t, Tensor)}

        def pack(t: Tensor) -> Tensor:
            if t.device.type == NAME and storage(t) not in self.known:
                self.kept[storage(t)] = t.untyped_storage().nbytes()
            return t

        with saved_tensors_hooks(pack, lambda t: t):
            yield


def storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


@cache
def free(function: Any) -> bool:
    """Whether an operation launches nothing: it makes a view, or an empty tensor."""
    schema = function._schema
    views = any(a.alias_info is not None and not a.alias_info.is_write for a in schema.arguments)
    return views or schema.name.removeprefix("aten::") in FREE


def launches(name: str, args: Any) -> int:
    """How many launches an operation counts as."""
    lists = [a for a in args if isinstance(a, (list, tuple)) and a and all(isinstance(t, Tensor) for t in a)]
    if not name.startswith(("_foreach", "_fused", "_amp_foreach")) or not lists:
        return 1
    return -(-len(lists[0]) // TENSORS[min(len(lists), 5)])


@contextmanager
def counting_gpu() -> Iterator[Counting]:
    """Inside, `device()` exists, and what is made on it is counted."""
    register()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(_foreach_utils, "_foreach_supported_types", [torch.Tensor, torch.nn.Parameter, FakeTensor])
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # torch does, to copy a model
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Counting())


def device() -> torch.device:
    return torch.device(NAME, 0)


@cache
def register() -> list[Library]:
    """Make torch know the device, and cast under autocast on it."""

    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    every, aten = Library("_", "IMPL"), Library("aten", "IMPL")
    every.fallback(fallthrough_kernel, AUTOCAST)
    for names, dtype in ((HALF, torch.bfloat16), (SINGLE, torch.float32)):
        for name in names:
            aten.impl(name, casting(overload(name), dtype), AUTOCAST)
    aten.impl("scaled_dot_product_attention", casting(fused_attention, torch.bfloat16), AUTOCAST)
    return [every, aten]


def overload(name: str) -> Any:
    packet, _, which = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which or "default")


def casting(function: Any, dtype: torch.dtype) -> Any:
    """What autocast makes of an operation. Weights are cast once, as torch does it, within one autocast block."""

    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.bfloat16) or value.dtype == dtype:
            return value
        if dtype != torch.bfloat16 or not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if getattr(value, "_cast", (None,))[0] != value._version:
            value._cast = value._version, value.to(dtype)  # type: ignore[attr-defined]
        return value._cast[1]  # type: ignore[attr-defined]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return function(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """What torch does on CUDA: a bool mask becomes an additive one, and one operation the rest."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, -torch.inf)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, attn_mask, torch.is_grad_enabled(), dropout_p)[0]
