"""Ends the process of the command line, also while a daemon thread still runs.

A thread that waits for a file server which never answers cannot be ended. If the interpreter is finalized while such a
thread runs, the process may crash with SIGSEGV after everything was done, and the exit code is lost. So the process
then ends without finalization: after all other threads have ended, and after the streams and the log were flushed.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable


def end_without_finalization() -> Callable[[int], None]:
    """Prepare the end of this process; return a function that sets its exit code. Not for programs that embed this one.

    Call it before anything else registers a function for the end of the process, because these are called in reverse
    order. Without an exit code, nothing changes.
    """
    codes: list[int] = []

    def end() -> None:
        if codes and any(thread.daemon and thread.is_alive() for thread in threading.enumerate()):
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone
                    stream.flush()
            os._exit(codes[-1])

    atexit.register(end)
    return codes.append
