"""What can go wrong, as a small family. Every message says what, where, expected, found, and what to try.

StvgError
├── UsageError          an option, a preset or a path given by the user
├── AnnotationError     a fault in an annotation file: file, record, field
├── VideoError          a video that does not give the frames its annotation promises
├── CacheError          a cache that is missing, stale (made with another recipe) or corrupt
├── CheckpointError     a checkpoint that cannot be read, or does not fit the model
├── EncoderError        an encoder that does not give what it says it gives
├── PredictionError     a prediction file that cannot be scored
├── WriteError          a file that could not be written
└── TrainingDiverged    a loss that is no longer a finite number
"""

from __future__ import annotations


class StvgError(Exception):
    """Base of every error a user can cause or meet. The command line prints it without a traceback.

    The message is one line that says what is wrong; ``facts`` are labelled lines printed below it, e.g.
    ``expected="a list of boxes", found="null", effect="nothing was written", hint="..."`` (``hint`` prints as "try").
    """

    def __init__(self, message: str, **facts: object) -> None:
        self.message = message
        self.facts = {label: str(value) for label, value in facts.items() if value is not None}
        super().__init__(message)

    def __str__(self) -> str:
        names = {"hint": "try"}
        lines = [self.message]
        lines += [f"  {names.get(label, label):<10} {value}" for label, value in self.facts.items()]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:  # keyword facts survive the trip between processes
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(kind: type[StvgError], message: str, facts: dict[str, str]) -> StvgError:
    error = kind.__new__(kind)
    StvgError.__init__(error, message, **facts)
    return error


class UsageError(StvgError):
    """An option, a preset or a path the user gave cannot be used."""


class AnnotationError(StvgError):
    """A fault in an annotation file, named by file, record (key or index) and field."""

    def __init__(self, file: object, record: object, field: str, message: str, **facts: object) -> None:
        where = f"{file}" + (f", record {record}" if record is not None else "") + (f", {field}" if field else "")
        self.file, self.record, self.field = str(file), record, field
        super().__init__(f"{where}: {message}", **facts)


class VideoError(StvgError):
    """A video that cannot be decoded, or not to the frames its annotation asks for. Nothing is padded or guessed."""


class CacheError(StvgError):
    """A cache that is missing, was made with another recipe, or is damaged."""


class CheckpointError(StvgError):
    """A checkpoint or weights file that cannot be read, or does not fit the model."""


class EncoderError(StvgError):
    """An encoder that does not give what it says it gives; names the encoder and the level."""


class PredictionError(StvgError):
    """A prediction file that cannot be scored: malformed, unknown or repeated sample ids."""


class WriteError(StvgError):
    """A file that could not be written: a full disk, no permission, something else in its place."""


class TrainingDiverged(StvgError):
    """A loss stopped being a finite number; names the step, the terms and the samples."""
