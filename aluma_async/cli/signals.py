"""Signal handlers: the first SIGINT or SIGTERM drains the run, the second one ends the process. SIGHUP reloads.

If something never returns (a file server that is gone, a plug-in), so that the run does not end, the process ends
``END_SECONDS`` after the drain timeout.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from typing import NoReturn

from aluma_async.cli.exit_codes import INCOMPLETE, INTERRUPTED

END_SECONDS = 75.0
"""Seconds after the drain timeout in which all claims are settled and the process ends; less than the systemd unit
allows."""
_EXIT_SECONDS = 2.0
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # SIGBREAK is Ctrl-Break on Windows


def exit_now() -> NoReturn:
    """End the process without waiting for anything, not even for a thread."""
    sys.stderr.flush()
    os._exit(INTERRUPTED)


@contextmanager
def handle_sighup(reload: Callable[[], None]) -> Iterator[None]:
    """Within the block, call ``reload`` at each SIGHUP.

    On a terminal, SIGHUP means that the window was closed, so there it still ends the process.
    """
    number = getattr(signal, "SIGHUP", None)
    if number is None or sys.stderr.isatty():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


@contextmanager
def handle_stop_signals(
    on_first: Callable[[], None],
    on_second: Callable[[], None] = exit_now,
    *,
    drain_seconds: float = 0.0,
    on_hang: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Within the block, call ``on_first`` at the first stop signal and ``on_second`` at each further one.

    ``on_second`` ends the process. If the event loop is blocked, so that it cannot, the process ends without it.

    Args:
        on_first: Starts draining.
        on_second: Ends the process.
        drain_seconds: The drain timeout.
        on_hang: Called in a thread before the process ends because draining did not.
    """
    loop = asyncio.get_running_loop()
    calls = chain([on_first], repeat(on_second))

    def on_signal(*_: object) -> None:
        call = next(calls)
        loop.call_soon_threadsafe(call)
        if call is on_second:
            _start_timer(_EXIT_SECONDS, partial(os._exit, INTERRUPTED))
        else:
            limit_drain(drain_seconds, on_hang)

    # Not with ``add_signal_handler``, which does nothing while the event loop is blocked.
    numbers = [number for name in _NAMES if (number := getattr(signal, name, None))]
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def limit_drain(drain_seconds: float, on_hang: Callable[[], None]) -> None:
    """End the process ``END_SECONDS`` after the drain timeout. Arguments as for ``handle_stop_signals``."""

    def end_hanging() -> None:
        try:
            on_hang()
            sys.stderr.flush()
        finally:
            os._exit(INCOMPLETE)

    _start_timer(drain_seconds + END_SECONDS, end_hanging)


def _start_timer(seconds: float, call: Callable[[], object]) -> None:
    """Call a function after some time, even if the event loop is blocked, unless the process has ended by then."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
