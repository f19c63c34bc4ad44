"""Untrimmed videos with exact moments and boxes, spliced of short annotated clips.

    uv run python tests/benchmarks/splices.py CLIPS OUT [--train 300] [--seed 0]

CLIPS: a folder with annotations.json (the product's json format), videos/, and, if clips are held out, splits.json, group
→ clips: those of ``heldout_clips`` are never trained on, all others are. OUT gets a dataset of the same format:

    train.json, val.json   the first part of every training clip, and the part after it (for choosing settings)
    seen.json              the last part of every training clip, asked for in words that were never trained on
    unseen.json            held-out clips
    moments.json           whole clips, unspliced, whose sentences tell of a part of them

Two or three clips make a video; at least one of the others is like the one asked for (its sentences share most words).
Training pieces are cut, zoomed, mirrored (with the words left and right), moved over the canvas and coloured at random, so
that neither place nor palette gives a clip away; all other pieces stand as they are, in the middle.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stvg.extract.synthetic.drawing import write_video
from stvg.extract.video.decode import read_frames

CANVAS = 400, 224
SOURCE_RATE, RATE = 10, 5
"""Clips are looked at ten times a second and shown at 5 fps: twice as slow, since many last two seconds."""
PARTS = {"train": (0.0, 0.6), "val": (0.6, 0.75), "seen": (0.75, 1.0), "unseen": (0.0, 1.0), "moments": (0.0, 1.0)}
"""Which share of a clip's slots each split shows."""
LONGEST, SHORTEST = 24, 3
"""Slots of a piece, and of a moment."""
TIMES = 3
"""Videos about every clip that is tested, each among other clips."""
HELD_OUT = "heldout_clips"
TURNED = {"left": "right", "right": "left"}

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Sentence:
    """One annotated sentence of a clip."""

    name: str
    text: str
    kind: str
    target: str
    moment: tuple[int, int]
    boxes: dict[int, list[float]]
    """By source frame of the clip, xyxy."""


@dataclass(frozen=True)
class Clip:
    """An annotated clip, and the source frame behind each of its slots."""

    name: str
    file: Path
    width: int
    height: int
    slots: NDArray[np.int64]
    sentences: list[Sentence]

    @cached_property
    def pixels(self) -> Pixels:
        """(slots, height, width, 3)."""
        return np.concatenate(list(read_frames(self.file, self.slots, width=self.width, height=self.height)))

    @cached_property
    def words(self) -> Counter[str]:
        return Counter(w for s in self.sentences for w in set(re.findall(r"\w+", s.text.lower())))

    def part(self, split: str) -> tuple[int, int]:
        first, last = PARTS[split]
        return math.ceil(first * len(self.slots)), math.ceil(last * len(self.slots))

    def boxes(self, sentence: Sentence, first: int, last: int) -> Boxes:
        """(last - first, 4): at some slots, NaN outside the moment."""
        start, end = sentence.moment
        wanted = (int(f) for f in self.slots[first:last])
        none = [math.nan] * 4
        found = [sentence.boxes.get(f, none) if start <= f < end else none for f in wanted]
        return np.array(found, dtype=np.float64).reshape(-1, 4)


@dataclass(frozen=True)
class Look:
    """How a piece stands on the canvas: what is cut out of the picture, where it goes, and in what colours."""

    cut: tuple[int, int, int, int]
    """xyxy, whole source pixels."""
    place: tuple[int, int, int, int]
    """xyxy, whole pixels of the canvas."""
    mirrored: bool = False
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    saturation: float = 1.0

    def boxes(self, boxes: Boxes) -> Boxes:
        """Source pixels → canvas pixels."""
        x1, y1, x2, y2 = self.cut
        moved = np.clip(boxes, [x1, y1] * 2, [x2, y2] * 2) - [x1, y1] * 2
        scale = (self.place[2] - self.place[0]) / (x2 - x1), (self.place[3] - self.place[1]) / (y2 - y1)
        moved *= scale * 2
        if self.mirrored:
            moved[:, [0, 2]] = self.place[2] - self.place[0] - moved[:, [2, 0]]
        return moved + self.place[:2] * 2

    def paint(self, canvas: Pixels, pixels: Pixels) -> None:
        """Frames (n, height, width, 3) onto a canvas of as many."""
        x1, y1, x2, y2 = self.place
        for out, frame in zip(canvas, pixels, strict=True):
            picture = Image.fromarray(frame).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, self.cut)
            shown = np.asarray(picture)[:, :: -1 if self.mirrored else 1].astype(np.float32)
            if self != Look(self.cut, self.place, self.mirrored):
                grey = shown.mean(-1, keepdims=True)
                shown = (grey + (shown - grey) * self.saturation) * self.gain
                shown = 128 + (shown - 128) * self.contrast
            out[y1:y2, x1:x2] = np.clip(np.rint(shown), 0, 255)


def plain(clip: Clip) -> Look:
    """The whole picture in the middle, as large as the canvas allows."""
    return placed(clip, (0, 0, clip.width, clip.height), 1.0, 0.5, 0.5)


def placed(clip: Clip, cut: tuple[int, int, int, int], size: float, x: float, y: float, **colours: Any) -> Look:
    """A cut at a share of the size the canvas allows; ``x``, ``y`` from 0 (left, top) to 1."""
    width, height = cut[2] - cut[0], cut[3] - cut[1]
    scale = size * min(CANVAS[0] / width, CANVAS[1] / height)
    w, h = max(2, int(width * scale)), max(2, int(height * scale))
    left, top = round(x * (CANVAS[0] - w)), round(y * (CANVAS[1] - h))
    return Look(cut, (left, top, left + w, top + h), **colours)


def varied(clip: Clip, boxes: Boxes, rng: np.random.Generator) -> Look:
    """A random look that shows every box whole."""
    known = boxes[np.isfinite(boxes).all(1)]
    low, high = known[:, :2].min(0), known[:, 2:].max(0)
    size = np.array([clip.width, clip.height])
    share = rng.uniform(0, 0.9, 4)
    x1, y1 = np.floor(np.maximum(low, 0) * share[:2]).astype(int)
    x2, y2 = np.ceil(size - (size - np.minimum(high, size)) * share[2:]).astype(int)
    gain = rng.uniform(0.75, 1.25, 3)
    return placed(
        clip,
        (int(x1), int(y1), int(x2), int(y2)),
        rng.uniform(0.6, 1),
        *rng.uniform(0, 1, 2),
        mirrored=bool(rng.random() < 0.5),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        contrast=float(rng.uniform(0.7, 1.3)),
        saturation=float(rng.uniform(0.4, 1.4)),
    )


def turned(text: str) -> str:
    """A sentence about the mirrored picture."""
    return re.sub(r"\b(left|right)\b", lambda m: TURNED[m[0]], text)


@dataclass(frozen=True)
class Piece:
    """Some slots of a clip, as they stand on the canvas."""

    clip: Clip
    first: int
    last: int
    look: Look

    def boxes(self, sentence: Sentence) -> Boxes:
        """(slots, 4) on the canvas, NaN outside the moment."""
        return self.look.boxes(self.clip.boxes(sentence, self.first, self.last))

    def tells(self, sentence: Sentence) -> bool:
        """Whether enough of a sentence's moment is in here."""
        return int(np.isfinite(self.clip.boxes(sentence, self.first, self.last)).all(1).sum()) >= SHORTEST


class Splicer:
    """Writes the videos and samples of every split. Equal seeds give equal files."""

    def __init__(self, clips: Sequence[Clip], held_out: set[str], out: Path, seed: int) -> None:
        self.out, self.rng = out, np.random.default_rng(seed)
        self.known = [c for c in clips if c.name not in held_out]
        self.unseen = [c for c in clips if c.name in held_out]
        self.likeness = likeness(clips)
        self.wording = {c.name: self.wordings(c) for c in self.known}
        """Clip → sentence name → split: which sentences are asked in train, in val and in seen."""

    def wordings(self, clip: Clip) -> dict[str, str]:
        """Of every target one sentence for ``seen``, one for ``val`` where there are three, the others for ``train``."""
        of_target: dict[str, list[Sentence]] = defaultdict(list)
        for sentence in clip.sentences:
            of_target[sentence.target].append(sentence)
        found = {}
        for sentences in of_target.values():
            order = [sentences[i] for i in self.rng.permutation(len(sentences))]
            splits = ["seen", "val", "train"] if len(order) > 2 else ["train", "seen"]
            found |= {s.name: splits[min(i, len(splits) - 1)] for i, s in enumerate(order)}
        return found

    def asked(self, clip: Clip, split: str) -> list[Sentence]:
        """The sentences of a clip that a split asks."""
        if split in ("unseen", "moments") and clip in self.unseen:
            return clip.sentences
        mine = "seen" if split == "moments" else split
        return [s for s in clip.sentences if self.wording.get(clip.name, {}).get(s.name) == mine]

    def piece(self, clip: Clip, split: str) -> Piece:
        """A piece of the part of a clip that a split shows; a random one, and at random, for training."""
        first, last = clip.part("seen" if split == "unseen" and clip in self.known else split)
        length = min(LONGEST, last - first)
        if split == "train":
            length = int(self.rng.integers(min(length, 2 * SHORTEST), length + 1))
        start = int(self.rng.integers(first, last - length + 1))
        boxes = np.concatenate([clip.boxes(s, start, start + length) for s in clip.sentences])
        vary = split == "train" and np.isfinite(boxes).any()
        return Piece(clip, start, start + length, varied(clip, boxes, self.rng) if vary else plain(clip))

    def beside(self, clip: Clip, pool: Sequence[Clip], count: int) -> list[Clip]:
        """Other clips: first one of the three most like it, then any."""
        others = sorted((c for c in pool if c is not clip), key=lambda c: -self.likeness[clip.name, c.name])
        like = others[int(self.rng.integers(min(3, len(others))))]
        rest = [c for c in others if c is not like]
        return [like, *(rest[i] for i in self.rng.choice(len(rest), count - 1, replace=False))]

    def train(self, count: int) -> None:
        """``count`` splices in which every piece is asked for in one of its training sentences."""
        content = Content(self.out, "train")
        for number in range(count):
            clip = self.known[number % len(self.known)]
            clips = [clip, *self.beside(clip, self.known, int(self.rng.integers(1, 3)))]
            pieces = [self.piece(clips[i], "train") for i in self.rng.permutation(len(clips))]
            chosen = []
            for place, piece in enumerate(pieces):
                told = [s for s in self.asked(piece.clip, "train") if piece.tells(s)]
                for target in sorted({s.target for s in told}):
                    mine = [s for s in told if s.target == target]
                    chosen.append((place, mine[int(self.rng.integers(len(mine)))]))
            content.add(f"train{number:04d}", pieces, chosen)
        content.write()

    def held(self, split: str, targets: Sequence[Clip], pool: Sequence[Clip]) -> None:
        """``TIMES`` splices for every clip of ``targets``: all that is asked of it, among others of ``pool``."""
        content = Content(self.out, split)
        for clip, number in product(targets, range(TIMES)):
            clips = [clip, *self.beside(clip, pool, int(self.rng.integers(1, 3)))]
            pieces = [self.piece(clips[i], split) for i in self.rng.permutation(len(clips))]
            place = next(i for i, p in enumerate(pieces) if p.clip is clip)
            told = [(place, s) for s in self.asked(clip, split) if pieces[place].tells(s)]
            content.add(f"{split}-{clip.name}-{number}", pieces, told)
        content.write()

    def moments(self) -> None:
        """Whole clips and the sentences that tell of a part of them."""
        content = Content(self.out, "moments")
        for clip in [*self.known, *self.unseen]:
            whole = Piece(clip, 0, len(clip.slots), plain(clip))
            told = [(0, s) for s in self.asked(clip, "moments") if whole.tells(s)]
            content.add(f"whole-{clip.name}", [whole], [t for t in told if is_part(t[1], clip)])
        content.write()


def is_part(sentence: Sentence, clip: Clip) -> bool:
    """Whether a moment leaves out a tenth of the clip or more."""
    start, end = sentence.moment
    return int(((clip.slots >= start) & (clip.slots < end)).sum()) <= 0.9 * len(clip.slots)


class Content:
    """The videos and samples of one split."""

    def __init__(self, out: Path, split: str) -> None:
        self.out, self.split = out, split
        self.videos: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []

    def add(self, name: str, pieces: Sequence[Piece], asked: Sequence[tuple[int, Sentence]]) -> None:
        """Write a video of some pieces and note what is asked of it, by place of the piece; nothing when nothing is."""
        if not asked:
            return
        starts = np.cumsum([0, *(p.last - p.first for p in pieces)]).tolist()
        canvas = np.zeros((starts[-1], CANVAS[1], CANVAS[0], 3), np.uint8)
        for piece, start in zip(pieces, starts, strict=False):
            piece.look.paint(
                canvas[start : start + piece.last - piece.first], piece.clip.pixels[piece.first : piece.last]
            )
        write_video(self.out / "videos" / f"{name}.mp4", canvas, Fraction(RATE))
        facts = {"width": CANVAS[0], "height": CANVAS[1], "fps": RATE, "frame_count": starts[-1]}
        self.videos[name] = {"file": f"{name}.mp4", **facts}
        for place, sentence in asked:
            boxes = pieces[place].boxes(sentence)
            inside = np.flatnonzero(np.isfinite(boxes).all(1))
            text = turned(sentence.text) if pieces[place].look.mirrored else sentence.text
            self.samples.append(
                {
                    "id": f"{name}/{sentence.name}",
                    "video": name,
                    "sentence": text,
                    "type": sentence.kind,
                    "moment": [starts[place] + int(inside[0]), starts[place] + int(inside[-1]) + 1],
                    "target": f"{pieces[place].clip.name}/{sentence.name}",
                    "boxes": {str(starts[place] + int(i)): boxes[i].round(2).tolist() for i in inside},
                    "interpolate": True,
                }
            )

    def write(self) -> None:
        """Nothing where nothing is asked: clips may have no held-out ones, or no sentence about a part."""
        if not self.samples:
            return
        folder = self.out / "annotations"
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"videos": self.videos, "samples": self.samples}
        (folder / f"{self.split}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def likeness(clips: Sequence[Clip]) -> dict[tuple[str, str], float]:
    """Of every two clips: how many words their sentences share, rare ones counting more (cosine of tf-idf)."""
    spread = Counter(word for clip in clips for word in clip.words)
    weight = {word: math.log(len(clips) / count) for word, count in spread.items()}
    vectors = {c.name: {w: n * weight[w] for w, n in c.words.items()} for c in clips}
    length = {name: math.sqrt(sum(v * v for v in vector.values())) or 1.0 for name, vector in vectors.items()}
    return {
        (a, b): sum(v * vectors[b].get(w, 0.0) for w, v in vectors[a].items()) / (length[a] * length[b])
        for a in vectors
        for b in vectors
    }


def read_clips(folder: Path) -> tuple[list[Clip], set[str]]:
    """The clips of a folder of which a sentence tells, and the names of those that are held out."""
    content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    told = folder / "splits.json"
    splits = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    sentences: dict[str, list[Sentence]] = defaultdict(list)
    for s in content["samples"]:
        boxes = {int(frame): box for frame, box in s["boxes"].items()}
        target = str(s.get("target", "0"))
        sentences[s["video"]].append(
            Sentence(str(s["id"]), s["sentence"], s.get("type", "declarative"), target, tuple(s["moment"]), boxes)
        )
    clips = []
    for name, facts in ((k, v) for k, v in content["videos"].items() if sentences[k]):
        step = max(1.0, facts["fps"] / SOURCE_RATE)
        slots = np.floor(np.arange(0, facts["frame_count"], step)).astype(np.int64)
        file = folder / "videos" / facts["file"]
        clips.append(Clip(name, file, facts["width"], facts["height"], slots, sentences[name]))
    return clips, set(splits.get(HELD_OUT, []))


def splice(folder: Path, out: Path, train: int, seed: int) -> None:
    """Write the whole dataset."""
    clips, held_out = read_clips(folder)
    splicer = Splicer(clips, held_out, out, seed)
    if len(splicer.known) < 3:
        sys.exit(
            f"{folder}: a video needs up to three clips; only {len(splicer.known)} with sentences may be trained on"
        )
    splicer.train(train)
    splicer.held("val", splicer.known, splicer.known)
    splicer.held("seen", splicer.known, splicer.known)
    splicer.held("unseen", splicer.unseen, clips)
    splicer.moments()
    if not (out / "annotations/train.json").exists():
        sys.exit(f"{folder}: no sentence has boxes in {SHORTEST} frames of one piece, so there is nothing to train on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=300, help="training videos")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    splice(chosen.clips, chosen.out, chosen.train, chosen.seed)


if __name__ == "__main__":
    main()
