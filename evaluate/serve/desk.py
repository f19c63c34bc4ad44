"""Questions in the order they came: one is worked at, the others wait and are told how many come first."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from ...errors import StvgError, UsageError
from ..film import write_videos
from ..grounding import Grounding
from ..predict import Predictor, require_words

log = logging.getLogger(__name__)

WAITING = 8
"""Questions that may wait."""
SENTENCES = 16
"""In one question: each has a video of its own, and all of them are written at once."""


@dataclass
class Question:
    """What somebody wants to know, and what came of it: answers, or an error."""

    number: int
    """The first is 1."""
    file: Path
    name: str
    """What the asker calls the file."""
    sentences: list[str]
    answers: list[dict[str, Any]] | None = None
    error: str | None = None


class Desk:
    """Takes questions from any thread; `work` answers them one by one, in the thread that calls it.

    ``folder``: an empty one; what belongs to question n is in ``folder``/n.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor, self.folder = predictor, folder
        self.questions: dict[int, Question] = {}
        self.finished = 0
        self._line: Queue[Question | None] = Queue()

    def ask(self, file: Path, name: str, sentences: list[str]) -> Question:
        """Take a place in the line. Raises UsageError when it is full, or there is nothing to answer."""
        if not 1 <= len(sentences) <= SENTENCES:
            raise UsageError("a question has a few sentences", expected=f"1 to {SENTENCES}", found=len(sentences))
        require_words(sentences)
        if len(self.questions) - self.finished > WAITING:
            raise UsageError(f"{WAITING} questions wait already", hint="ask again in a while")
        question = Question(len(self.questions) + 1, file, name, sentences)
        self.questions[question.number] = question
        self._line.put(question)
        return question

    def state(self, question: Question) -> dict[str, Any]:
        """Answers, or an error, or how many questions come first (0: this one is worked at)."""
        if question.answers is not None:
            return {"answers": question.answers}
        if question.error is not None:
            return {"error": question.error}
        return {"ahead": question.number - self.finished - 1}

    def work(self) -> None:
        """Answer what is asked until the desk is closed."""
        while (question := self._line.get()) is not None:
            try:
                self.answer(question)
            except StvgError as error:
                question.error = str(error).replace(str(question.file), question.name)
            except Exception:  # the next question may fare better
                log.exception("question %d could not be answered", question.number)
                question.error = "That went wrong, and not by your doing: the terminal says more."
            self.finished += 1

    def close(self) -> None:
        """No more questions: `work` returns once it has answered those before."""
        self._line.put(None)

    def answer(self, question: Question) -> None:
        found = self.predictor.ground(question.file, question.sentences, question.name)
        out = self.folder / str(question.number)
        found.write(out)
        write_videos(question.file, found.video, found.tubes, out, found.clock)
        question.answers = answers(found)


def answers(found: Grounding) -> list[dict[str, Any]]:
    """What the page shows of every sentence; seconds from the start of the video (None: not known), and source frames."""
    moments = [found.seconds(tube) or (None, None) for tube in found.tubes]
    return [
        {
            "sentence": sample.sentence,
            "start": start,
            "end": end,
            "first": int(tube.start),
            "last": int(tube.end) - 1,
            "score": tube.score,
        }
        for sample, tube, (start, end) in zip(found.samples, found.tubes, moments, strict=True)
    ]
