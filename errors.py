"""The exceptions of stvg. A message names the object, what was expected, what was found, the effect, and what to try.

StvgError
├── UsageError          an option, a preset or a path given by the user
├── AnnotationError     a fault in an annotation file: file, record, field
├── VideoError          a video without the frames that its annotation refers to
├── CacheError          a cache that is missing, stale (made with another recipe) or damaged
├── CheckpointError     a checkpoint that cannot be read or does not fit the model
├── EncoderError        an encoder with outputs that differ from its declaration
├── PredictionError     a prediction file that cannot be scored
├── WriteError          a file that could not be written
└── TrainingDiverged    a loss that is no longer a finite number
"""

from __future__ import annotations


class StvgError(Exception):
    """Base class of all errors with a cause outside the program. The command line prints them without a traceback.

    ``message``: one line that states the fault. ``facts``: labelled lines printed below it, for example
    ``expected="a list of boxes", found="null", effect="nothing was written", hint="..."``; ``hint`` is printed as
    "try".
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

    def __reduce__(self) -> tuple[object, ...]:  # keeps ``facts`` when an error is pickled
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(kind: type[StvgError], message: str, facts: dict[str, str]) -> StvgError:
    error = kind.__new__(kind)
    StvgError.__init__(error, message, **facts)
    return error


class UsageError(StvgError):
    """An option, a preset or a path from the user that cannot be used."""


class AnnotationError(StvgError):
    """A fault in an annotation file, with the file, the record (key or index) and the field."""

    def __init__(self, file: object, record: object, field: str, message: str, **facts: object) -> None:
        where = f"{file}" + (f", record {record}" if record is not None else "") + (f", {field}" if field else "")
        self.file, self.record, self.field = str(file), record, field
        super().__init__(f"{where}: {message}", **facts)


class VideoError(StvgError):
    """A video that cannot be decoded, or that lacks frames of its annotation. Missing frames are never replaced."""


class CacheError(StvgError):
    """A cache that is missing, was made with another recipe, or is damaged."""


class CheckpointError(StvgError):
    """A checkpoint or weights file that cannot be read or does not fit the model."""


class EncoderError(StvgError):
    """An encoder with outputs that differ from its declaration. The message names the encoder and the level."""


class PredictionError(StvgError):
    """A prediction file that cannot be scored: it is malformed, or has unknown or repeated sample ids."""


class WriteError(StvgError):
    """A file that could not be written, for example because of a full disk or missing permission."""


class TrainingDiverged(StvgError):
    """A loss that became NaN or infinite. The message names the step, the loss terms and the samples."""
