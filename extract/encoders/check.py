"""Test an encoder against the contract: `stvg encoder check`. Every finding names the fault and its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import StvgError
from ...wording import first_line
from .contract import Backbone, Frozen
from .text_contract import TextEncoder

LARGEST = 65_504.0
"""Largest float16 value."""
SMALLEST = 6e-5
"""A map whose largest value is below this loses most of its precision in float16."""
TOLERANCE = 1e-4
"""Largest difference between a frame alone and in a batch, as a fraction of the map's standard deviation."""
FRAMES_A_MINUTE = 300
SENTENCES = ["the man in red walks across the street", "a", "what swims across the green water?", "THE DOG, again!"]

Seeded = Callable[[str | None, int], Any]
"""Builds the same encoder with other weights (`random` or as named) and another seed."""


@dataclass
class EncoderFindings:
    """Results of a check: passed checks, faults, and facts. Printed as lines."""

    name: str
    held: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def note(self, fault: str | None, held: str = "") -> None:
        """Add one check: its fault, or else the line that says what holds."""
        if fault:
            self.faults.append(fault)
        elif held:
            self.held.append(held)

    def lines(self) -> list[str]:
        marked = [f"  ok     {line}" for line in self.held] + [f"  FAULT  {line}" for line in self.faults]
        verdict = f"{len(self.faults)} wrong" if self.faults else "nothing wrong was found"
        return [f"encoder {self.name}", *(f"  {line}" for line in self.facts), *marked, verdict]


def noise(backbone: Backbone, count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Seeded normal pixels (n, 3, H, W), channels last as in extraction, or (n, window, 3, H, W) if the encoder has a
    window."""
    frames = (count, 3) if backbone.window == 1 else (count, backbone.window, 3)
    pixels = torch.randn(*frames, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    return pixels.contiguous(memory_format=torch.channels_last) if backbone.window == 1 else pixels


def check_backbone(
    backbone: Backbone, build: Seeded, weights: str | None, seed: int, resolution: int
) -> EncoderFindings:
    """Check a visual encoder. ``build`` builds it with other weights, to see whether features depend on them."""
    found = EncoderFindings(backbone.name)
    found.facts += [
        f"weights  {backbone.source}",
        f"sha256   {backbone.sha256[:16]}…",
        "levels   " + ", ".join(f"{v.name}: {v.channels} channels, stride {v.stride}" for v in backbone.levels),
        f"pixels   mean {backbone.mean}, std {backbone.std}, multiple {backbone.multiple}, window {backbone.window}",
    ]
    if fault := refused(lambda: try_backbone(backbone, build, weights, seed, resolution, found)):
        found.note(f"while it was tried: {fault}")
    return found


def try_backbone(
    backbone: Backbone, build: Seeded, weights: str | None, seed: int, resolution: int, found: EncoderFindings
) -> None:
    device, coarsest = backbone.device, max(backbone.levels[-1].stride, backbone.multiple)
    sizes = [(2 * coarsest, 3 * coarsest), (2 * coarsest + 1, 4 * coarsest - 1), (coarsest - 1, coarsest + 3)]
    with torch.inference_mode():
        for height, width in sizes:
            pixels = noise(backbone, 2, max(height, 1), width, device)
            fault = refused(lambda p=pixels: backbone(p))  # type: ignore[misc]
            found.note(
                fault and f"pictures of {height} x {width}: {fault}", f"maps fit their strides at {height} x {width}"
            )
            if fault:
                return
    if not check_state(backbone, noise(backbone, 2, *sizes[0], device), found):
        return
    with torch.inference_mode():
        check_values(backbone, noise(backbone, 8, *sizes[1], device), found)
        other = ("random", seed) if weights not in (None, "random") else ("random", seed + 1)
        check_weights(backbone, lambda: build(*other), lambda e, p: e(p), noise(backbone, 1, *sizes[1], device), found)
        measure(backbone, resolution, found)


def check_state(encoder: Frozen, pixels: Tensor, found: EncoderFindings) -> bool:
    """Check evaluation mode, gradients, unchanged pixels, the maps' type and device. True if the device is right."""
    before = pixels.clone()
    maps = encoder(pixels)
    note_training(encoder, found)
    changed = not torch.equal(before, pixels)
    found.note("the call changes the pixels it is given" if changed else None)
    for name, value in maps.items():
        found.note(f"level {name} carries gradients: frozen encoders must not" if value.requires_grad else None)
        odd = value.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        found.note(f"level {name} has the wrong type: {value.dtype}, expected float32" if odd else None)
        away = value.device != pixels.device
        found.note(f"level {name} lies on {value.device}, the pixels on {pixels.device}" if away else None)
    return all(value.device == pixels.device for value in maps.values())


def note_training(encoder: Frozen, found: EncoderFindings) -> None:
    training = next((n for n, m in encoder.named_modules() if n and m.training), None)
    fault = f"module {training} is in training mode after a call: dropout and norms would change its values"
    found.note(fault if training else None, "in evaluation mode")


def check_values(backbone: Backbone, pixels: Tensor, found: EncoderFindings) -> None:
    """Check values: finite, reproducible, independent of the batch, within float16, and dependent on the pixels."""
    maps, again = backbone(pixels), backbone(pixels)
    alone = [backbone(pixels[i : i + 1]) for i in (0, len(pixels) - 1)]
    for name, value in maps.items():
        what = f"level {name}"
        if note_infinite(what, value, found):
            continue
        found.note(unequal(what, value, again[name]), f"{what}: two calls give the same bits")
        fault = depends(what, value[[0, -1]], torch.cat([a[name] for a in alone]))
        found.note(fault, f"{what}: a frame has the same features alone and in a batch of {len(pixels)}")
        found.note(out_of_range(what, value), f"{what}: at most {value.abs().max():.3g}, fits float16")
        found.note(f"{what} does not depend on the pixels" if torch.equal(value[0], value[1]) else None)


def note_infinite(what: str, value: Tensor, found: EncoderFindings) -> bool:
    bad = int((~value.isfinite()).sum())
    found.note(f"{what}: {bad:,} of {value.numel():,} values are NaN or infinite" if bad else None)
    return bad > 0


def unequal(what: str, value: Tensor, again: Tensor) -> str | None:
    apart = (value - again).abs().max().item() if value.numel() else 0.0
    return f"{what}: two calls give other values, by {apart:.2g}: dropout, or other random numbers" if apart else None


def depends(what: str, together: Tensor, alone: Tensor) -> str | None:
    spread = together.float().std().item() or 1.0
    apart = (together.float() - alone.float()).abs().max().item()
    if apart <= TOLERANCE * spread:
        return None
    return f"{what}: alone it differs from itself in a batch by {apart:.2g}; at most {TOLERANCE * spread:.2g} allowed"


def out_of_range(what: str, value: Tensor) -> str | None:
    most = value.abs().max().item()
    if most > LARGEST:
        return f"{what}: {most:.3g} is beyond float16, which ends at {LARGEST:,.0f}; scale it, or --dtype bfloat16"
    return f"{what}: at most {most:.2g}, too small for the precision of float16" if most < SMALLEST else None


def check_weights(
    encoder: Any, other: Callable[[], Any], run: Callable[[Any, Any], Any], given: Any, found: EncoderFindings
) -> None:
    """Other weights must give other features. An encoder without random weights is not compared; a line says so."""
    try:
        second = other()
    except StvgError as error:
        found.facts.append(f"not checked: whether other weights give other features; {first_line(error)}")
        return
    pairs = zip(values_of(run(encoder, given)), values_of(run(second.to(encoder.device), given)), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    found.note(
        "other weights give the same features: it ignores its weights" if same else None,
        "other weights give other features",
    )


def values_of(result: Any) -> Iterator[Tensor]:
    yield from result.values() if isinstance(result, dict) else result


def refused(run: Callable[[], Any]) -> str | None:
    """The error text of a call that raises; None if it succeeds."""
    try:
        run()
    except StvgError as error:
        return "; ".join([error.message, *(f"{k} {v}" for k, v in error.facts.items() if k in ("expected", "found"))])
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def measure(backbone: Backbone, resolution: int, found: EncoderFindings) -> None:
    """Measure milliseconds a frame in a batch of 8; compute the float16 size of a minute of 16:9 video at 5 fps."""
    height, width = resolution, resolution * 16 // 9
    pixels, seconds = noise(backbone, 8, height, width, backbone.device), 0.0
    for _ in range(2):
        start = time.perf_counter()
        for value in backbone(pixels).values():
            value.sum().item()
        seconds = time.perf_counter() - start
    bytes_of = [
        2 * v.channels * -(-height // v.stride) * -(-width // v.stride) * FRAMES_A_MINUTE for v in backbone.levels
    ]
    found.facts.append(
        f"time     {1e3 * seconds / len(pixels):.1f} ms a frame of {width} x {height} on {backbone.device}"
    )
    found.facts.append(
        f"size     {bytes_of[-1] / 1e6:,.1f} MB a minute of video, {sum(bytes_of) / 1e6:,.1f} MB with all levels"
    )


def check_text(text: TextEncoder, build: Seeded, weights: str | None, seed: int) -> EncoderFindings:
    """Check a text encoder."""
    found = EncoderFindings(text.name)
    found.facts += [f"weights  {text.source}", f"sha256   {text.sha256[:16]}…"]
    found.facts += [f"width    {text.width}, longest sentence {text.longest or 'any'} tokens"]
    if fault := refused(lambda: try_text(text, build, weights, seed, found)):
        found.note(fault)
    return found


def try_text(text: TextEncoder, build: Seeded, weights: str | None, seed: int, found: EncoderFindings) -> None:
    features, padding = text(SENTENCES)
    note_training(text, found)
    found.note("features carry gradients: frozen encoders must not" if features.requires_grad else None)
    if silent := [s for s, none in zip(SENTENCES, padding.all(1).tolist(), strict=True) if none]:
        found.note(f"sentence {silent[0]!r} has no tokens, or padding says so")
        return
    start = time.perf_counter()
    together = [torch.from_numpy(f) for f in text.encode(SENTENCES)]
    found.facts.append(f"time     {1e3 * (time.perf_counter() - start) / len(SENTENCES):.1f} ms a sentence")
    again = [torch.from_numpy(f) for f in text.encode(SENTENCES)]
    alone = [torch.from_numpy(text.encode([s])[0]) for s in SENTENCES]
    for sentence, a, b, c in zip(SENTENCES, together, again, alone, strict=True):
        what = f"features of {sentence!r}"
        lengths = len({len(a), len(b), len(c)}) > 1
        found.note(f"{what}: {len(a)} tokens in a batch, {len(c)} alone" if lengths else None)
        if not note_infinite(what, a, found) and not lengths:
            found.note(unequal(what, a, b))
            found.note(depends(what, a, c))
            found.note(out_of_range(what, a))
    if not found.faults:
        found.held.append("finite, two calls agree, alone as in a batch, fits float16")
    same = any(x.shape == y.shape and torch.equal(x, y) for x, y in _pairs(together))
    found.note(
        "different sentences have the same features" if same else None, "different sentences have different features"
    )
    other = ("random", seed) if weights not in (None, "random") else ("random", seed + 1)
    check_weights(
        text, lambda: build(*other), lambda e, s: [torch.from_numpy(f) for f in e.encode(s)], SENTENCES, found
    )


def _pairs(values: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((a, b) for i, a in enumerate(values) for b in values[i + 1 :])
