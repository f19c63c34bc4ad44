"""``stvg encoder``: list the encoders, and check one."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import UsageError
from ...options import FOLDER, Commands, choose_device, device_option, say, tokenizer_option


@click.group(cls=Commands, short_help="List and check visual and text encoders.")
def encoder() -> None:
    """Visual encoders and text encoders: list them, check one."""


@encoder.command("list", short_help="List kinds of encoders and plugins.")
def encoder_list() -> None:
    """List the kinds of encoders and the installed plugins."""
    from .backbone import BACKBONES
    from .plugins import registered
    from .text import TEXT_ENCODERS

    for title, kinds in (
        ("visual encoders (--backbone)", BACKBONES),
        ("text encoders (--text-encoder)", TEXT_ENCODERS),
    ):
        say(title)
        for kind in kinds:
            say(f"  {kind.name:<14}{kind.what}")
    say(f"installed plugins: {', '.join(registered()) or 'none'}")


@encoder.command("check")
@click.argument("name")
@click.option(
    "--weights", metavar="PATH", help="A file or folder of weights, or 'random'.  [the default place of its kind]"
)
@click.option("--text", is_flag=True, help="NAME is a text encoder.")
@tokenizer_option
@click.option("--weights-seed", "seed", type=int, default=0, show_default=True, help="Seed of random weights.")
@click.option("--values", type=FOLDER, metavar="FILE", help="Compare with recorded values, see docs/encoders.md.")
@click.option(
    "--resolution",
    type=click.IntRange(min=32),
    default=224,
    show_default=True,
    help="Short side, in pixels, of the frames that are timed.",
)
@device_option
def encoder_check(
    name: str,
    weights: str | None,
    text: bool,
    tokenizer: str | None,
    seed: int,
    values: Path | None,
    resolution: int,
    device: str | None,
) -> None:
    """Check an encoder: shapes, values, batches, weights, speed. Lists faults; exits with 1 if there are any.

    \b
    Example: stvg encoder check timm:resnet18 --weights random
    """
    from .backbone import BACKBONES, build_backbone
    from .check import check_backbone, check_text
    from .recorded import compare_pictures, compare_sentences, read_recorded
    from .several import BETWEEN
    from .text import TEXT_ENCODERS, build_text_encoder

    if BETWEEN in name:
        raise UsageError(f"{name} are several encoders", hint="check them one at a time")
    if not text and name in {kind.name for kind in TEXT_ENCODERS} - {kind.name for kind in BACKBONES}:
        raise UsageError(f"{name} is a text encoder", hint=f"stvg encoder check {name} --text")
    recorded, where = read_recorded(values) if values else {}, choose_device(device)
    if text:
        sentences = build_text_encoder(name, weights, tokenizer, seed, where)
        found = check_text(sentences, lambda w, s: build_text_encoder(name, w, tokenizer, s, where), weights, seed)
        compare_sentences(sentences, recorded, found)
    else:
        pictures = build_backbone(name, weights, seed, where)
        found = check_backbone(pictures, lambda w, s: build_backbone(name, w, s, where), weights, seed, resolution)
        if not found.faults:
            compare_pictures(pictures, recorded, found)
    say("\n".join(found.lines()))
    if found.faults:
        raise SystemExit(1)
