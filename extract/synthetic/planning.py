"""Plan random scenes: the objects, the time and kind of their events, and paths on which these events are possible.

Scenes are planned so that a sentence must be read completely. Objects share colours and shapes, most of them take part
in two events at different times, and most kinds of event happen to several of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...cache.sampling import FloatArray, IntArray
from ...errors import UsageError
from .scenes import DIRECTIONS, NEAR, SIZES, Event, Scene, SyntheticConfig, Thing, gaps

TRIES = 32
"""Random positions tried at once for an object."""


def plan_scene(rng: np.random.Generator, config: SyntheticConfig) -> Scene:
    """Plan one video. Raises UsageError if the objects do not fit into the picture in any attempt."""
    for _ in range(20):
        frame_count = int(rng.integers(config.frames[0], config.frames[1] + 1))
        looks = _looks(rng, config, int(rng.integers(config.objects[0], config.objects[1] + 1)))
        # As few kinds of event as objects, so that most kinds happen to several of them.
        kinds = [str(kind) for kind in rng.choice(config.predicates, size=len(looks), replace=False)]
        for _ in range(40):  # many attempts, so that hard combinations do not become rare
            if (planned := _plan(rng, config, frame_count, looks, kinds)) is not None:
                return Scene(config.width, config.height, frame_count, *planned, int(rng.integers(2**62)))
    raise UsageError("the objects do not fit into the picture", found=config, hint="fewer objects, or a larger picture")


def _plan(
    rng: np.random.Generator, config: SyntheticConfig, frame_count: int, looks: list[tuple[str, str]], kinds: list[str]
) -> tuple[tuple[Thing, ...], tuple[Event, ...]] | None:
    things: list[Thing] = []
    events: list[Event] = []
    for colour, shape in looks:
        for _ in range(8):
            timeline = _timeline(rng, kinds, events, things, frame_count)
            if timeline is not None and (placed := _place(rng, config, timeline, things, frame_count)) is not None:
                break
        else:
            return None
        size, boxes, passing = placed
        things.append(Thing(colour, shape, size, boxes))
        events += timeline + passing
    return tuple(things), tuple(events)


def _looks(rng: np.random.Generator, config: SyntheticConfig, count: int) -> list[tuple[str, str]]:
    """Distinct (colour, shape) pairs: the first shares its colour with one object and its shape with another."""
    colours = rng.choice(config.colours, size=2, replace=False)
    shapes = rng.choice(config.shapes, size=2, replace=False)
    looks = [(str(colours[0]), str(shapes[0])), (str(colours[0]), str(shapes[1])), (str(colours[1]), str(shapes[0]))]
    while len(looks) < count:
        look = (str(rng.choice(config.colours)), str(rng.choice(config.shapes)))
        looks += [look] if look not in looks else []
    return [looks[i] for i in rng.permutation(count)]


def _timeline(
    rng: np.random.Generator, kinds: list[str], others: list[Event], things: list[Thing], frame_count: int
) -> list[Event] | None:
    """One or, mostly, two events of one object, each a quarter to a half of the video. None if they do not fit."""
    count = 2 if rng.random() < 0.85 else 1
    usable = [kind for kind in kinds if kind != "next_to" or things]
    # Sorting exponential times draws without replacement; next_to, the hardest to place, gets three times the rate.
    times = rng.exponential(size=len(usable)) * [1 / 3 if kind == "next_to" else 1 for kind in usable]
    chosen = [usable[i] for i in np.argsort(times)[:count]]
    lengths = np.ceil(rng.uniform(0.25, 0.5 if count == 1 else 0.4, size=count) * frame_count).astype(int)
    # Frames kept free before an event (to come near) and after it (to leave again, to shrink back, or to rest).
    before = [_passage(frame_count) if kind == "next_to" else 0 for kind in chosen]
    after = [_passage(frame_count) if kind in ("next_to", "grows") else 0 for kind in chosen]
    spare = frame_count - int(lengths.sum()) - sum(before) - sum(after) - 3 * (count - 1)
    if spare < 0:
        return None
    delays = np.sort(rng.integers(0, spare + 1, size=count))
    events, clock = [], 0
    for kind, length, lead, trail, delay in zip(chosen, lengths.tolist(), before, after, delays.tolist(), strict=True):
        start = delay + clock + lead
        events.append(Event(len(things), kind, start, start + length))
        clock += lead + length + trail + 3
    # One kind of event happens to different objects at different times.
    same = ((a, b) for a in events for b in others if a.predicate == b.predicate and not b.passing)
    if any(min(a.end, b.end) - max(a.start, b.start) > 0.45 * (a.end - a.start) for a, b in same):
        return None
    return _with_neighbour(rng, events, things, frame_count)


def _with_neighbour(
    rng: np.random.Generator, events: list[Event], things: list[Thing], frame_count: int
) -> list[Event] | None:
    """Set ``other`` of next_to events to an object that rests meanwhile. None if no object does."""
    for i, event in enumerate(events):
        if event.predicate == "next_to":
            around = slice(event.start - _passage(frame_count), event.end + _passage(frame_count))
            resting = [tid for tid, thing in enumerate(things) if np.ptp(thing.boxes[around], axis=0).max() <= 3]
            if not resting:
                return None
            events[i] = replace(event, other=int(rng.choice(resting)))
    return events


def _passage(frame_count: int) -> int:
    """Frames to approach a neighbour, to leave it, or to shrink back."""
    return max(4, frame_count // 12)


def _place(
    rng: np.random.Generator, config: SyntheticConfig, events: list[Event], things: list[Thing], frame_count: int
) -> tuple[str, IntArray, list[Event]] | None:
    """Find a path that keeps a distance to the ``things`` placed before: size word, boxes, passing events, or None.

    The events fix the path's shape; TRIES random origins are tried at once.
    """
    picture = np.array([config.width, config.height], dtype=np.float64)
    short, passage, frames = picture.min(), _passage(frame_count), np.arange(frame_count)
    grower = any(event.predicate == "grows" for event in events)
    size = str(rng.choice(list(SIZES)))
    sides = np.full(frame_count, rng.uniform(*SIZES["small" if grower else size]) * short * config.scale)
    phases, periods = rng.uniform(0, 2 * np.pi, size=2), rng.uniform(12, 24, size=2)
    offset = rng.uniform(0.4, 1.0) * np.sin(phases + 2 * np.pi * frames[:, None] / periods)  # small oscillation at rest
    for event in events:
        done = np.clip((frames - event.start + 1) / (event.end - event.start), 0, 1)
        if event.predicate in DIRECTIONS:
            offset += done[:, None] * rng.uniform(0.3, 0.45) * picture * DIRECTIONS[event.predicate]
        elif event.predicate == "grows":
            shrunk = np.clip((frames - event.end + 1) / passage, 0, 1)
            sides *= 1 + rng.uniform(0.75, 1.0) * (done - shrunk)
    whole = np.rint(sides).astype(np.int64)
    low = (whole[:, None] / 2 - offset).max(0) + 1
    high = (picture - whole[:, None] / 2 - offset).min(0) - 1
    if (low > high).any():
        return None
    centres = rng.uniform(low, high, size=(TRIES, 2))[:, None] + offset  # (TRIES, frames, 2)
    near = NEAR * short
    meeting, partner = next(((e, things[e.other]) for e in events if e.other is not None), (None, None))
    if meeting is not None and partner is not None:
        around = slice(meeting.start - passage, meeting.end + passage)
        spot = _beside(rng, partner.boxes[meeting.start], whole[meeting.start], near)
        there = np.interp(frames, [meeting.start - passage, meeting.start, meeting.end - 1, meeting.end - 1 + passage], [0, 1, 1, 0])  # fmt: skip  # noqa: E501
        centres = centres + there[:, None] * (spot[:, None] - centres)
    corners = np.rint(centres - whole[:, None] / 2).astype(np.int64)
    boxes = np.concatenate([corners, corners + whole[:, None]], axis=-1)  # (TRIES, frames, 4)
    clear = ((boxes[..., :2] >= 0) & (boxes[..., 2:] <= picture)).all((1, 2))
    for thing in things:
        gap = gaps(boxes, thing.boxes)
        close = gap <= near
        if meeting is not None and thing is partner:
            during = slice(meeting.start, meeting.end)
            clear &= close[:, during].all(1) & (gap[:, during] >= 1).all(1)
            close[:, around] = False
        # An object may come close to another one, or be partly hidden by it, only for a few frames.
        clear &= (close.sum(1) <= max(3, frame_count // 16)) & (gap.min(1) >= -near)
    if not clear.any():
        return None
    best = int(clear.argmax())
    return "" if grower else size, boxes[best], _passing(centres[best], meeting, passage, picture)


def _beside(rng: np.random.Generator, box: IntArray, side: int, near: float) -> FloatArray:
    """TRIES random centres for an object of this side next to ``box``: left, right, above or below it."""
    way = np.array(list(DIRECTIONS.values()))[rng.integers(4, size=TRIES)]
    reach = (box[2:] - box[:2] + side) / 2 + rng.uniform(0.35, 0.65, size=(TRIES, 1)) * near
    slide = rng.uniform(-0.15, 0.15, size=(TRIES, 2)) * side
    return (box[:2] + box[2:]) / 2 + np.where(way != 0, way * reach, slide)


def _passing(centres: FloatArray, meeting: Event | None, passage: int, picture: FloatArray) -> list[Event]:
    """Approach and departure as movement events, one for every direction that could describe them."""
    if meeting is None:
        return []
    ways = [(meeting.start - passage, meeting.start), (meeting.end - 1, meeting.end - 1 + passage)]
    return [
        Event(meeting.subject, kind, start, end, passing=True)
        for start, end in ways
        for kind, way in DIRECTIONS.items()
        if (centres[end] - centres[start]) / picture @ way > 0.08
    ]
