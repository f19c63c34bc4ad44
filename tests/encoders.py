"""Facts of encoders for tests."""

from __future__ import annotations

from stvg.cache.schema import Level, Recipe, Text, Visual


def levels(channels: tuple[int, ...], strides: tuple[int, ...], names: str = "c3 c4 c5") -> tuple[Level, ...]:
    return tuple(Level(*facts) for facts in zip(names.split(), channels, strides, strict=True))


RESNET = levels((512, 1024, 2048), (8, 16, 32))
"""Those of ResNet-101."""


def visual(of: tuple[Level, ...] = RESNET, name: str = "resnet101") -> Visual:
    return Visual(name, "0" * 64, of, (0.5,) * 3, (0.25,) * 3)


def text(width: int = 768, name: str = "roberta-base") -> Text:
    return Text(name, "0" * 64, width)


def further(recipe: Recipe) -> list[str]:
    """The kept levels before the last."""
    return [level.name for level in recipe.levels[:-1]]


WORDS = """

class Words:
    width = 5

    def __init__(self, weights, device):
        self.table = nn.Embedding(256, 5, device=device)

    def __call__(self, sentences):
        return [self.table(torch.tensor(list(s.encode()))) for s in sentences]
"""
"""Source of a user's class for sentences: a letter is a token."""
