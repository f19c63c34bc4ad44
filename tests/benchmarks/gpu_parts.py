"""The parts of gpu.py, one a process: what is computed on a GPU is right, and how fast it is.

    uv run python tests/benchmarks/gpu_parts.py PART FOLDER GOLDEN SECONDS

Adds what PART finds to FOLDER/PART.jsonl, a row as soon as it is known, and says in FOLDER/gpu.json where. FOLDER is kept
for other parts. Without a GPU it runs on one that is pretended (tests/gpu.py), on small inputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from counting import run_of
from facts import LEVELS, TEXT
from launches import HEADS, clips
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[2]))  # where the tests are, whose recorded cases are read here

from stvg.cache.index import Cache
from stvg.cache.sampling import Sampling
from stvg.extract.job import ExtractJob, run_job
from stvg.extract.synthetic.dataset import write_vidstg
from stvg.extract.synthetic.scenes import SyntheticConfig
from stvg.heads.losses import Criterion
from stvg.heads.model_config import FeatureFacts
from stvg.heads.settings import load_experiment
from stvg.heads.table import build_model
from stvg.heads.training import loop as training
from stvg.heads.training.state import Run
from stvg.precision import float32_products
from tests.gpu import GPU, pretended_gpu
from tests.heads import clips as small
from tests.heads import test_tubedetr as tubedetr
from tests.heads.stcat import recorded as stcat

CPU = torch.device("cpu")
FACTS = FeatureFacts(LEVELS, TEXT.width)
BATCHES = (4, 8, 16, 32, 64)
CASES = {
    "TubeDETR": (tubedetr, ("s2_fast_single", "s5_slow_single")),
    "STCAT": (stcat, ("batch_pad", "long_clip")),
}
"""Recorded runs that are repeated."""
RECORDED = {"boxes": "pred_boxes", "span": "pred_sted", "action": "pred_actioness"}
TOLERANCES = {"boxes": 2e-5, "span": 1e-4, "action": 1e-4}
SMALL = ("model.d=32", "model.ffn=48", "model.encoder_layers=1", "model.decoder_layers=2", "train.amp=none")
"""A head for the pretended GPU."""


@dataclass(frozen=True)
class Place:
    """Where things run, and until when."""

    device: torch.device
    real: bool
    golden: Path
    scratch: Path
    end: float

    def wait(self) -> None:
        if self.real:
            torch.cuda.synchronize(self.device)

    def features(self, *shape: int) -> Tensor:
        """Random ones."""
        return torch.rand(shape, device=self.device if self.real else CPU).half()

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


def timed(place: Place, work: Callable[[], object], times: int) -> float:
    """Median seconds, the first time aside."""
    found = []
    for _ in range(times + 1):
        place.wait()
        start = time.perf_counter()
        work()
        place.wait()
        found.append(time.perf_counter() - start)
    return median(found[1:])


# ---- is it right?


def parity(place: Place) -> Iterator[dict[str, Any]]:
    """Outputs of recorded cases, and losses and gradients of FSM beside those of a CPU, in float32."""
    for head, (module, names) in CASES.items():
        for name in names:
            case = module.Case(place.golden, name)
            model = build_model(case.model.config, case.model.features)
            model.load_state_dict(case.model.state_dict())
            model = model.to(place.device).eval()
            with torch.no_grad(), float32_products():
                layers = model(case.inputs.to(place.device)).layers
            off = {
                what: apart(getattr(layers[-1], what), theirs, case.real) for what, theirs in wanted(case, len(layers))
            }
            right = all(value <= TOLERANCES[what] for what, value in off.items())
            yield {"what": f"{head}, recorded {name}", "right": right, **{f"{k} off by": v for k, v in off.items()}}
    here, there = (losses_and_gradients(device) for device in (CPU, place.device))
    off = {k: float((there[k] - v).abs().max() / v.abs().max().clamp(min=1e-3)) for k, v in here.items()}
    yield {"what": "FSM, losses and gradients beside a CPU's", "right": max(off.values()) < 2e-3} | {
        "largest difference, relative": max(off.values())
    }


def wanted(case: Any, layers: int) -> Iterator[tuple[str, Tensor]]:
    """What was recorded of the last layer."""
    for what, name in RECORDED.items():
        if f"layer{layers - 1}.{name}" in case.recorded:
            yield what, case.recorded[f"layer{layers - 1}.{name}"]


def apart(found: Tensor, recorded: Tensor, real: Tensor) -> float:
    """The largest difference on slots that are no padding."""
    found = found.cpu().view(*real.shape, -1)
    return float((found - recorded.reshape(found.shape)).abs()[real].max())


def losses_and_gradients(device: torch.device) -> dict[str, Tensor]:
    model = build_model(small.small(dropout=0.0, span_dropout=0.0), small.FACTS).to(device).train()
    inputs, targets = (part.to(device) for part in small.batch(small.CLIPS))
    with float32_products():
        terms = Criterion(load_experiment("paper").loss)(model(inputs, targets), targets, inputs.frame_padding)
        torch.stack(list(terms.values())).sum().backward()
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    return {**{k: v.detach().cpu() for k, v in terms.items()}, **gradients}


def resume(place: Place) -> Iterator[dict[str, Any]]:
    """A run that goes on from its checkpoint, beside one that never stopped: the loss of the next step."""
    cache = Cache.open(synthetic_cache(place, "tiny", 2, "roi"))
    for preset in ("paper", "tubedetr", "stcat"):
        experiment = load_experiment(preset, [*SMALL, "model.dropout=0", "model.span_dropout=0", "model.max_frames=12"])
        runs = [Run(place.scratch / f"run-{preset}", cache, experiment, "train", place.device) for _ in range(2)]
        few = [runs[0].dataset.collate([runs[0].dataset[i] for i in (0, 1)])]
        for run in runs:
            run.model.train()
        training.step(runs[0], few)
        runs[0].save()
        gone_on = runs[1].resume()
        with float32_products():
            losses = [float(torch.stack(list(training.step(run, few).values())).sum().cpu()) for run in runs]
        off = abs(losses[0] - losses[1]) / losses[0]
        yield {"what": f"resumed, {preset}", "right": gone_on and off < 1e-5, "loss off by, relative": off}


def synthetic_cache(place: Place, backbone: str, videos: int, levels: str) -> Path:
    """A cache of synthetic videos, made once."""
    data, cache = place.scratch / f"data{videos}", place.scratch / f"cache-{backbone}{videos}-{levels}"
    if not data.exists():
        write_vidstg(data, SyntheticConfig(train=videos, val=0, test=0, jobs=os.cpu_count() or 1))
    if not cache.exists():
        options: dict[str, Any] = {"splits": ["train"], "backbone": backbone, "text_encoder": "tiny", "levels": levels}
        options |= {"backbone_weights": "random"} if backbone != "tiny" else {"resolution": 96}
        options |= {"annotations": data, "out": cache, "sampling": Sampling(5.0, 40), "device": CPU}
        run_job(ExtractJob(dataset="vidstg", **options))[0].raise_if_asked()
    return cache


# ---- how fast is it?


def extraction(place: Place) -> Iterator[dict[str, Any]]:
    """Frames a second of a whole extraction, set-up aside, and how busy each stage was."""
    videos, backbone = (64, "resnet101") if place.real else (2, "tiny")
    data = place.scratch / f"data{videos}"
    if not data.exists():
        write_vidstg(data, SyntheticConfig(train=videos, val=0, test=0, jobs=os.cpu_count() or 1))
    for amp in ("none", "bf16") if place.real else ("none",):
        job = ExtractJob(
            dataset="vidstg",
            annotations=data,
            out=place.scratch / f"extracted-{amp}",
            sampling=Sampling(5.0, 100),
            device=place.device,
        )
        job = replace(job, splits=["train"], backbone=backbone, text_encoder="tiny", amp=amp)
        job = replace(job, backbone_weights="random") if place.real else replace(job, resolution=96, levels="last")
        report, _ = run_job(job)
        report.raise_if_asked()
        busy = report.shares()
        limit = max(busy, key=lambda stage: busy[stage])
        yield {"what": f"extraction, {backbone}, {amp}", "frames": report.frames} | {
            "frames/s": report.frames / report.elapsed,
            "limited by": f"{limit} ({busy[limit]:.0%} busy)",
        }


def steps(place: Place) -> Iterator[dict[str, Any]]:
    """Whole training steps at the paper's sizes."""
    peak = multiply_rate(place)
    yield {"what": "bf16 products, large and square", "TFLOP/s": peak / 1e12}
    settings = ["train.amp=bf16"] if place.real else [*SMALL, "model.max_frames=12"]
    fitting = {name: run_of(load_experiment(p, settings), FACTS, place.device) for name, (p, _) in HEADS.items()}
    for count in BATCHES if place.real else (2,):
        for name, run in list(fitting.items()):
            torch.cuda.empty_cache() if place.real else None
            try:
                yield {"what": f"step, {name}, {count} clips"} | step_of(place, run, count, HEADS[name][1], peak)
            except torch.OutOfMemoryError:
                yield {"what": f"step, {name}, {count} clips", "seconds": "does not fit"}
                del fitting[name]


def step_of(place: Place, run: Any, count: int, frames: int, peak: float) -> dict[str, Any]:
    batch = clips(count, frames if place.real else 6, features=place.features).to(place.device)
    with FlopCounterMode(display=False) as counter:
        training.step(run, [batch])
    if place.real:
        torch.cuda.reset_peak_memory_stats(place.device)
    seconds = timed(place, lambda: training.step(run, [batch]), 5 if place.real else 1)
    found = {"seconds": seconds, "clips/s": count / seconds}
    if place.real:
        found["memory, GB"] = torch.cuda.max_memory_allocated(place.device) / 1e9
        found["of the multiply rate"] = counter.get_total_flops() / seconds / peak
        found["kernels"] = kernels(lambda: training.step(run, [batch]))
    return found


def kernels(work: Callable[[], object]) -> int:
    """How many kernels run on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in profiler.events())


def multiply_rate(place: Place) -> float:
    """Operations a second in square bf16 products."""
    n = 8192 if place.real else 64
    a, b = (torch.randn(n, n, device=place.device).bfloat16() for _ in range(2))
    return 2 * n**3 / timed(place, lambda: a @ b, 20)


def end_to_end(place: Place) -> Iterator[dict[str, Any]]:
    """Steps from pixels, both encoders training."""
    backbone, videos = ("resnet101", 8) if place.real else ("tiny", 2)
    cache, data = Cache.open(synthetic_cache(place, backbone, videos, "none")), place.scratch / f"data{videos}"
    for preset in ("paper", "tubedetr", "stcat"):
        settings = ["train.mode=end-to-end", "train.epochs=1", "train.batch_size=4", "train.log_every=1"]
        settings += ["train.amp=bf16"] if place.real else [*SMALL, "model.max_frames=12"]
        sources = {"videos": data / "vidor/video", "backbone_weights": "random" if backbone != "tiny" else None}
        run = Run(
            place.scratch / f"end-{preset}", cache, load_experiment(preset, settings), "train", place.device, sources
        )
        lines: list[dict[str, Any]] = []
        training.train(run, report=lines.append)
        found = [x for x in lines if "seconds" in x][1:] or lines[:1]
        yield {"what": f"end to end, {preset}, 4 clips"} | {
            "seconds": median(x.get("seconds", 0.0) for x in found),
            "waiting for data": median(x.get("wait", 0.0) for x in found),
            "memory, GB": max(x.get("memory_bytes", 0) for x in found) / 1e9,
        }


def ranks(place: Place) -> Iterator[dict[str, Any]]:
    """One rank and two, of the same batches."""
    if not place.real or torch.cuda.device_count() < 2:
        yield {"what": "two ranks", "seconds": "there are no two GPUs"}
        return
    script = [
        sys.executable,
        str(Path(__file__).with_name("ranks.py")),
        "--device",
        "cuda",
        "--amp",
        "bf16",
        "--batch",
        "16",
    ]
    ran = subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=max(1, place.left()), check=True)
    names, _, *rows = ([cell.strip() for cell in row.strip("| ").split("|")] for row in ran.stdout.strip().splitlines())
    for row in rows:
        yield {"what": f"ranks: {row[0]}", **dict(zip(names[1:], row[1:], strict=True))}


PARTS = {f.__name__: f for f in (parity, resume, steps, extraction, end_to_end, ranks)}


def main() -> None:
    part, scratch, golden, seconds = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    real = torch.cuda.is_available()
    with nullcontext() if real else pretended_gpu(), (scratch / f"{part}.jsonl").open("a") as file:
        place = Place(GPU, real, golden, scratch, time.monotonic() + seconds)
        gpu = {"gpu": torch.cuda.get_device_name(GPU), "torch": torch.__version__}
        (scratch / "gpu.json").write_text(json.dumps(gpu))
        for row in reported(part, place):
            file.write(json.dumps(row) + "\n")
            file.flush()


def reported(part: str, place: Place) -> Iterator[dict[str, Any]]:
    """What a part finds, and why it failed if it did."""
    try:
        yield from PARTS[part](place)
    except Exception as error:
        traceback.print_exc()
        yield {"what": part, "failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}


if __name__ == "__main__":
    main()
