"""Questions in the order they came: one is worked at, the others wait and are told how many come first."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from ...errors import StvgError, UsageError
from ..grounding.answers import Grounding, write_answers
from ..grounding.film import write_films
from ..grounding.predictor import Predictor
from ..grounding.request import Ground, Question

log = logging.getLogger(__name__)

WAITING = 8
"""Questions that may wait."""
SENTENCES = 16
"""In one question: each has a video of its own, and all of them are written at once."""


@dataclass
class Asked:
    """A question that was taken, and what came of it: answers, or an error."""

    number: int
    """The first is 1."""
    question: Question
    answers: dict[str, Any] | None = None
    error: str | None = None


class Desk:
    """Takes questions from any thread; `work` answers them one by one, in the thread that calls it.

    ``folder``: an empty one; what belongs to question n is in ``folder``/n. ``moments``: of every sentence.
    """

    def __init__(self, predictor: Predictor, folder: Path, moments: int = Ground.moments) -> None:
        self.predictor, self.folder, self.moments = predictor, folder, moments
        self.questions: dict[int, Asked] = {}
        self.finished = 0
        self._line: Queue[Asked | None] = Queue()

    def ask(self, file: Path, name: str, sentences: list[str]) -> Asked:
        """Take a place in the line. Raises UsageError when it is full, or there is nothing to answer."""
        if not 1 <= len(sentences) <= SENTENCES:
            raise UsageError("a question has a few sentences", expected=f"1 to {SENTENCES}", found=len(sentences))
        question = Question(file, tuple(sentences), name)
        if len(self.questions) - self.finished > WAITING:
            raise UsageError(f"{WAITING} questions wait already", hint="ask again in a while")
        asked = Asked(len(self.questions) + 1, question)
        self.questions[asked.number] = asked
        self._line.put(asked)
        return asked

    def state(self, asked: Asked) -> dict[str, Any]:
        """Answers, or an error, or how many questions come first (0: this one is worked at)."""
        if asked.answers is not None:
            return asked.answers
        if asked.error is not None:
            return {"error": asked.error}
        return {"ahead": asked.number - self.finished - 1}

    def history(self) -> list[dict[str, Any]]:
        """All questions, the first one first, with their state."""
        return [
            {"question": n, "name": asked.question.shown, "sentences": asked.question.sentences, **self.state(asked)}
            for n, asked in list(self.questions.items())
        ]

    def work(self) -> None:
        """Answer what is asked until the desk is closed."""
        while (asked := self._line.get()) is not None:
            try:
                self.answer(asked)
            except StvgError as error:
                asked.error = str(error).replace(str(asked.question.file), asked.question.shown)
            except Exception:  # the next question may fare better
                log.exception("question %d could not be answered", asked.number)
                asked.error = "The question could not be answered; this is a fault of stvg, and the terminal says more."
            self.finished += 1

    def close(self) -> None:
        """No more questions: `work` returns once it has answered those before."""
        self._line.put(None)

    def answer(self, asked: Asked) -> None:
        found = self.predictor.ground(asked.question, self.moments)
        write_answers(self.folder / str(asked.number), [found], write_films)
        asked.answers = answers(found)


def answers(found: Grounding) -> dict[str, Any]:
    """What the page shows of a question; seconds from the start of the video (None: not known), and source frames."""
    shown = []
    for answer in found.answers:
        moments = []
        for moment in answer.moments:
            start, end = found.seconds(moment) or (None, None)
            place = {"start": start, "end": end, "first": moment.start, "last": moment.end - 1}
            moments.append({**place, "likely": moment.probability})
        shown.append({"sentence": answer.sentence, "score": answer.tube.score, "moments": moments})
    length = found.clock.end if found.clock else None
    return {"answers": shown, "seconds": length, "frames": found.video.frame_count, "doubts": found.doubts}
