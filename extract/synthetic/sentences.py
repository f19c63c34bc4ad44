"""Sentences about a scene. Each has a logical form that matches exactly one object and one interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .scenes import Event, Scene, Thing

RECORDS = 3
"""Number of events of a scene that get sentences."""
Wordings = dict[str, tuple[str, ...]]

WORDINGS: Wordings = {
    "moves_left": ("moves to the left", "moves left", "goes left"),
    "moves_right": ("moves to the right", "moves right", "goes right"),
    "moves_up": ("moves up", "goes up"),
    "moves_down": ("moves down", "goes down"),
    "grows": ("grows", "gets bigger", "becomes larger"),
    "striped": ("is striped", "has stripes"),
    "flashes": ("flashes", "blinks", "flashes white"),
    "next_to": ("is next to", "is beside"),
}


@dataclass(frozen=True)
class Phrase:
    """The words that describe an object. All empty: any object."""

    size: str = ""
    colour: str = ""
    shape: str = ""

    def fits(self, thing: Thing) -> bool:
        # A reader may call a medium-sized object small or big, so it matches both words.
        return (
            self.colour in ("", thing.colour)
            and self.shape in ("", thing.shape)
            and (not self.size or thing.size in ("", self.size))
        )

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)


@dataclass(frozen=True)
class Form:
    """Logical form of a sentence: the object that matches ``subject``, while ``predicate`` holds (with ``other``)."""

    subject: Phrase
    predicate: str
    other: Phrase | None = None


@dataclass(frozen=True)
class Sentence:
    text: str
    form: Form
    target: int


@dataclass(frozen=True)
class ToldEvent:
    """One event with a declarative sentence and up to two questions."""

    event: Event
    caption: Sentence
    questions: tuple[Sentence, ...]


def denotation(scene: Scene, form: Form) -> set[tuple[int, int, int]]:
    """Every (object, start, end) of the scene that matches the form. Passing movements count as movements."""
    return {
        (subject, event.start, event.end)
        for event in scene.events
        if event.predicate == form.predicate
        for subject, other in _roles(event)
        if form.subject.fits(scene.things[subject])
        and (form.other is None or (other is not None and form.other.fits(scene.things[other])))
    }


def tell(rng: np.random.Generator, scene: Scene, paraphrase: bool = True) -> tuple[ToldEvent, ...]:
    """At most ``RECORDS`` events of the scene in random order; events without an unambiguous sentence are left out."""
    wordings = WORDINGS if paraphrase else {kind: known[:1] for kind, known in WORDINGS.items()}
    records: list[ToldEvent] = []
    for index in rng.permutation(len(scene.events)):
        event = scene.events[index]
        if not event.passing and (caption := next(_captions(rng, scene, event, wordings), None)) is not None:
            wanted = int(rng.choice([0, 1, 2], p=[0.15, 0.4, 0.45]))  # 1.3 drawn; 1 on average, as some are ambiguous
            records.append(ToldEvent(event, caption, tuple(_questions(rng, scene, event, wordings))[:wanted]))
    return tuple(records[:RECORDS])


def _roles(event: Event) -> list[tuple[int, int | None]]:
    """(subject, other) of the event; for next_to in both orders."""
    if event.other is None:
        return [(event.subject, None)]
    return [(event.subject, event.other), (event.other, event.subject)]


def _captions(rng: np.random.Generator, scene: Scene, event: Event, wordings: Wordings) -> Iterator[Sentence]:
    for phrase in _descriptions(rng, scene.things[event.subject]):
        text = f"{rng.choice(['the', 'the', 'a'])} {phrase} {rng.choice(wordings[event.predicate])}"
        form = Form(phrase, event.predicate)
        if event.other is not None:
            form = Form(phrase, event.predicate, next(_descriptions(rng, scene.things[event.other])))
            text += f" the {form.other}"
        if len(denotation(scene, form)) == 1:
            yield Sentence(text, form, event.subject)


def _questions(rng: np.random.Generator, scene: Scene, event: Event, wordings: Wordings) -> Iterator[Sentence]:
    """'what …?', 'which circle …?', 'which red object …?'; for next_to also 'what is the red circle next to?'."""
    options = [(*roles, words) for roles in _roles(event) for words in ("what", "shape", "colour")]
    for choice in rng.permutation(len(options)):
        target, other, words = options[choice]
        phrase = Phrase() if words == "what" else Phrase(**{words: getattr(scene.things[target], words)})
        who = "what" if words == "what" else f"which {phrase}"
        wording = str(rng.choice(wordings[event.predicate]))
        form, text = Form(phrase, event.predicate), f"{who} {wording}?"
        if other is not None:
            neighbour = Phrase(colour=scene.things[other].colour, shape=scene.things[other].shape)
            form = Form(phrase, event.predicate, neighbour)
            direct, inverted = f"{wording} the {neighbour}", f"is the {neighbour} {wording.removeprefix('is ')}"
            text = f"{who} {rng.choice([direct, inverted])}?"
        if len(denotation(scene, form)) == 1:
            yield Sentence(text, form, target)


def _descriptions(rng: np.random.Generator, thing: Thing) -> Iterator[Phrase]:
    """Descriptions of an object in random order; colour and shape are most often the first."""
    ways = (("colour", "shape"), ("size", "colour", "shape"), ("colour",), ("shape",), ("size", "shape"))
    for way in rng.choice(len(ways), size=len(ways), replace=False, p=[0.5, 0.15, 0.15, 0.1, 0.1]):
        yield Phrase(**{word: getattr(thing, word) for word in ways[way]})
