"""``--log FILE``: a copy of a command's output, with the time of every line."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from .outputs import reason
from .untrusted import harmless

SAID = logging.getLogger("stvg.said")
"""Logger for the output of commands. It writes to the log file only."""
SAID.propagate = False
SAID.addHandler(logging.NullHandler())


class LogFile(logging.FileHandler):
    """Appends lines to a file and creates its folder if needed. Processes can share the file, as a record is one write.

    If a write fails, a warning is printed once, and the command continues without the log.
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
        sys.stderr.write(f"stvg: WARNING the log {self.baseFilename} cannot be written and stops here: {found}\n")


def start(path: Path) -> None:
    """Copy all further output and warnings to a file. Raises OSError."""
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
            except OSError:  # buffered lines cannot be written
                continue


def copy(text: str) -> None:
    """Write a text to the log file, if there is one."""
    SAID.info("%s", text)
