"""The command line. Every package has its own commands. They import heavy modules when they run, so help is fast."""

from __future__ import annotations

import logging
import os
import signal

import click

from . import __version__, log_file
from .cache.commands import cache
from .errors import StvgError
from .evaluate.ablation.commands import ablate
from .evaluate.commands import demo, evaluate, runs
from .evaluate.predict_commands import predict
from .evaluate.report_commands import report
from .extract.commands import extract
from .extract.datasets.commands import dataset
from .extract.encoders.commands import encoder
from .extract.import_commands import cache_import
from .heads.commands import train_head, weights
from .options import Commands, say
from .outputs import of_file_system, reason
from .stop import Interrupted

ENDED = "the command stopped; finished results are kept"
SMALLER = (
    "a smaller batch (extract --batch-frames, evaluate --batch-size, --set train.batch_size), or train.recompute=true"
)


def main() -> None:
    """Entry point. StvgError and errors of the file system print a message and exit with status 1.

    The status is 130 after SIGINT and 143 after SIGTERM. Click exits silently if the reader of a pipe has closed it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("stvg").setLevel(logging.INFO)
    try:
        cli.main(prog_name="stvg", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as stop:
        cause = stop.__cause__ or stop  # click converts KeyboardInterrupt to Abort
        says, number = getattr(cause, "says", Interrupted.says), getattr(cause, "signal", signal.SIGINT)
        raise SystemExit(_fail(says, 128 + number)) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except StvgError as error:
        raise SystemExit(_fail(f"{type(error).__name__}: {error}", 1)) from None
    except click.exceptions.Exit as stop:
        raise SystemExit(stop.exit_code) from None
    except OSError as error:
        if not of_file_system(error):
            raise
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        raise SystemExit(_fail(f"{where}{reason(error)}\n  effect     {ENDED}", 1)) from None
    except (RuntimeError, MemoryError) as error:
        if not of_memory(error):
            raise
        where = "device" if type(error).__name__ == "OutOfMemoryError" else "machine"
        facts = f"  found      {str(error).partition(chr(10))[0]}\n  effect     {ENDED}\n  try        {SMALLER}"
        raise SystemExit(_fail(f"the {where} has no memory left\n{facts}", 1)) from None
    finally:
        log_file.stop()


def of_memory(error: Exception) -> bool:
    """Whether the memory of the device or the machine is exhausted. torch has errors of its own for this."""
    said = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


def _fail(message: str, code: int) -> int:
    say(f"stvg: {message}", err=True)
    return code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stvg")
def cli() -> None:
    """Spatio-temporal video grounding from an offline feature cache.

    Extract features once, then train, compare and score grounding heads in minutes. Start with: stvg demo
    """


cache.add_command(cache_import)
for command in (
    demo,
    dataset,
    encoder,
    extract,
    cache,
    weights,
    train_head,
    runs,
    evaluate,
    report,
    ablate,
    predict,
):  # in working order
    cli.add_command(command)


if __name__ == "__main__":
    main()
