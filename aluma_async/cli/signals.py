"""SIGINT and SIGTERM: the first one asks to end, the second one ends the process."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import NoReturn

from aluma_async.cli.exit_codes import INTERRUPTED

_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' Ctrl-Break


def exit_now() -> NoReturn:
    """End the process without waiting for anything, not even a thread."""
    sys.stderr.flush()
    os._exit(INTERRUPTED)


@contextmanager
def handle_sighup(reload: Callable[[], None]) -> Iterator[None]:
    """Within the block, call ``reload`` at each SIGHUP; but where a terminal is, it is the terminal's end."""
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
def handle_stop_signals(on_first: Callable[[], None], on_second: Callable[[], None] = exit_now) -> Iterator[None]:
    """Within the block, call ``first`` at the first signal and ``then`` at the next, in the running loop."""
    loop = asyncio.get_running_loop()
    calls = chain([on_first], repeat(on_second))

    def received() -> None:
        next(calls)()

    def interrupted(*_: object) -> None:
        loop.call_soon_threadsafe(received)

    before = {number: signal.getsignal(number) for name in _NAMES if (number := getattr(signal, name, None))}
    for number in before:
        try:
            loop.add_signal_handler(number, received)
        except NotImplementedError:  # Windows
            signal.signal(number, interrupted)
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
