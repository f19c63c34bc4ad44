"""Profiles training steps: writes a Chrome trace, and prints a table of the parts' times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils.hooks import RemovableHandle

from ..model import Grounder

WARM_UP = 2
ROWS = 10
STEP = "ProfilerStep*"


class Profile:
    """Profiles ``steps`` steps of a run after `WARM_UP` others, writes a trace to ``path`` and passes a table to
    ``say``.

    The loop labels its own parts. This class labels the forward pass of every part of the head, and of the encoders.
    """

    def __init__(self, model: Grounder, steps: int, path: Path, say: Callable[[str], None]) -> None:
        self.model, self.path, self.say = model, path, say
        on_gpu = next(model.parameters()).device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        plan = schedule(wait=0, warmup=WARM_UP, active=steps, repeat=1)
        self.profiler = profile(activities=activities, schedule=plan, on_trace_ready=self.finish)

    @contextmanager
    def running(self) -> Iterator[Self]:
        with ExitStack() as stack:
            for name, module in parts_of(self.model):
                for handle in label(module, f"forward: {name}"):
                    stack.callback(handle.remove)
            stack.enter_context(self.profiler)
            yield self

    def step(self) -> None:
        """Advance the profiler by one step."""
        self.profiler.step()

    def finish(self, profiler: profile) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))
        self.say(f"{table(profiler.key_averages())}\n→ {self.path}")


def parts_of(model: Grounder) -> Iterator[tuple[str, nn.Module]]:
    """The modules that get a label each."""
    yield from model.head.named_children()
    if model.encoders is not None:
        yield "encoders", model.encoders


def label(module: nn.Module, name: str) -> Iterator[RemovableHandle]:
    """Label the forward pass of a module in the trace; yields the handles of the hooks."""
    entered: list[record_function] = []

    def enter(*_: Any) -> None:
        entered.append(record_function(name))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave, always_call=True)


def table(averages: Any) -> str:
    """The most expensive labelled parts: milliseconds per step and share of it; on a GPU also the time of its kernels.

    ``forward`` contains all parts whose names begin with it.
    """
    labelled = [
        e for e in averages if e.is_user_annotation and not e.key.startswith("Optimizer.")
    ]  # labels set by torch itself
    whole = next(e for e in labelled if e.key == STEP)
    parts = sorted((e for e in labelled if e.key != STEP), key=lambda e: -e.cpu_time_total)[:ROWS]
    lines = [f"{'part':<24}{'ms a step':>12}{'share':>9}{'calls':>8}{'GPU ms':>10}"]
    for e in parts:
        step_ms, gpu_ms = (t / whole.count / 1000 for t in (e.cpu_time_total, e.device_time_total))
        share, calls = e.cpu_time_total / whole.cpu_time_total, e.count / whole.count
        lines.append(f"{e.key:<24}{step_ms:>12.2f}{share:>9.1%}{calls:>8.3g}{gpu_ms:>10.2f}")
    if not any(e.device_time_total for e in parts):
        lines = [line[:-10] for line in lines]
    return "\n".join([*lines, f"{'all':<24}{whole.cpu_time_total / whole.count / 1000:>12.2f}"])
