"""``--log FILE``: a copy of all that a command says, every line with its time."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from .outputs import reason
from .untrusted import harmless

SAID = logging.getLogger("stvg.said")
"""What commands say; it goes nowhere but into a log file."""
SAID.propagate = False
SAID.addHandler(logging.NullHandler())


class LogFile(logging.FileHandler):
    """Appends lines to a file, whose folder is made where missing. Processes may share it: a record is one write.

    Where the file cannot be written any more, that is said once, and the command goes on without it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, encoding="utf-8")

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.name == SAID.name else f"{record.levelname} "
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return "\n".join(f"{now} {line}" for line in harmless(f"{level}{record.getMessage()}").splitlines() if line)

    def handleError(self, record: logging.LogRecord) -> None:
        stop()
        error = sys.exc_info()[1]
        found = reason(error) if isinstance(error, OSError) else error
        sys.stderr.write(f"stvg: WARNING the log {self.baseFilename} cannot be written, and ends here: {found}\n")


def start(path: Path) -> None:
    """Copy everything that is said from now on, warnings of the program among it. Raises OSError."""
    stop()
    log = LogFile(path)
    for logger in (SAID, logging.getLogger()):
        logger.addHandler(log)
    SAID.setLevel(logging.INFO)


def stop() -> None:
    """Close the log file, if there is one."""
    for logger in (SAID, logging.getLogger()):
        for log in [found for found in logger.handlers if isinstance(found, LogFile)]:
            logger.removeHandler(log)
            try:
                log.close()
            except OSError:  # of a line that could not be written either
                continue


def copy(text: str) -> None:
    """Write a text into the log file, if there is one."""
    SAID.info("%s", text)
