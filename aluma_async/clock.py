"""Clocks: the event loop's, and the one for times that must outlive the process."""

import os
import time
from asyncio import get_running_loop
from functools import cache
from pathlib import Path

from aluma_async.models import Timestamp

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if hasattr(time, "CLOCK_MONOTONIC") else None)


def loop_time() -> float:
    """Return the event loop's time in seconds. ``anyio.current_time`` returns the same, nine times as slowly."""
    return get_running_loop().time()


def system_clock() -> Timestamp:
    """Return the time. CLOCK_BOOTTIME continues while the machine sleeps, as Aluma's clock does."""
    boottime = time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
    return Timestamp(_boot(), boottime, time.time())


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"process {os.getpid()}"  # another process then measures by the wall clock
