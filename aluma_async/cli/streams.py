"""The standard streams: closed or full ones must not change what a run does, nor its exit code."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.service.lossy_file import LossyFile


def protect_streams() -> None:
    """Replace closed streams, and discard what cannot be written to stderr: its reader is gone, or its disk is full."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # so that no other file gets the number of a stream
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open until the end of the process
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot encode must not break a listing.
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(LossyFile(2)), encoding, "backslashreplace", line_buffering=True)


def run_command(command: Callable[[], int]) -> int:
    """Return the exit code of a command: not 0 if output is lost for another reason than a closed pipe."""
    code = OK
    try:
        code = command()
        sys.stdout.flush()
    except OSError as error:
        discard_stdout()  # Python flushes it again at exit, and that must not fail
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"aluma-async: standard output: {error.strerror}\n")
            return code or INCOMPLETE
    except SystemExit:
        # With an underscore in front in newer versions of click.
        if not type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise
        # click found that the reader of stdout has gone, as in "aluma-async check | head -1"
    return code


def discard_stdout() -> None:
    """Discard everything that is written to stdout from now on."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
