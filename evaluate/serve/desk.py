"""A queue of questions. They are answered one at a time, in the order they arrive; the others see their position."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from ...errors import StvgError, UsageError
from ..grounding.answers import Grounding
from ..grounding.film import write_films
from ..grounding.folder import write_answers
from ..grounding.predictor import Predictor
from ..grounding.request import Ground, Question

log = logging.getLogger(__name__)

WAITING = 8
"""Maximum number of waiting questions."""
SENTENCES = 16
"""Maximum number per question: each sentence gets its own video, and all of them are written at the same time."""


@dataclass
class Asked:
    """An accepted question and its result: answers or an error."""

    number: int
    """Counted from 1."""
    question: Question
    answers: dict[str, Any] | None = None
    error: str | None = None


class Desk:
    """Accepts questions from any thread. `work` answers them one by one, in the thread that calls it.

    ``folder``: an empty folder; the files of question n are in ``folder``/n. ``moments``: number of moments per
    sentence.
    """

    def __init__(self, predictor: Predictor, folder: Path, moments: int = Ground.moments) -> None:
        self.predictor, self.folder, self.moments = predictor, folder, moments
        self.questions: dict[int, Asked] = {}
        self.finished = 0
        self._line: Queue[Asked | None] = Queue()

    def ask(self, file: Path, name: str, sentences: list[str]) -> Asked:
        """Add a question to the queue. Raises UsageError if the queue is full, or for too few or too many sentences."""
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
        """The answers, or an error, or the number of questions ahead (0: this one is being answered)."""
        if asked.answers is not None:
            return asked.answers
        if asked.error is not None:
            return {"error": asked.error}
        return {"ahead": asked.number - self.finished - 1}

    def history(self) -> list[dict[str, Any]]:
        """All questions in their order, with their state."""
        return [
            {"question": n, "name": asked.question.shown, "sentences": asked.question.sentences, **self.state(asked)}
            for n, asked in list(self.questions.items())
        ]

    def work(self) -> None:
        """Answer questions until the desk is closed."""
        while (asked := self._line.get()) is not None:
            try:
                self.answer(asked)
            except StvgError as error:
                asked.error = str(error).replace(str(asked.question.file), asked.question.shown)
            except Exception:  # an error of one question does not stop the server
                log.exception("question %d could not be answered", asked.number)
                asked.error = "The question could not be answered; this is a fault of stvg, and the terminal says more."
            self.finished += 1

    def close(self) -> None:
        """Make `work` return after the questions that are already in the queue."""
        self._line.put(None)

    def answer(self, asked: Asked) -> None:
        found = self.predictor.ground(asked.question, self.moments)
        write_answers(self.folder / str(asked.number), [found], write_films)
        asked.answers = answers(found)


def answers(found: Grounding) -> dict[str, Any]:
    """The answers as data for the page: seconds from the start of the video (None: unknown), and source frames."""
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
