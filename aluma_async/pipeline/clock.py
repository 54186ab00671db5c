"""The clock for what outlives the process; the only place that reads one other than the event loop's."""

import os
import time
from functools import cache
from pathlib import Path

from aluma_async.models import Stamp

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if hasattr(time, "CLOCK_MONOTONIC") else None)


def system_clock() -> Stamp:
    """Tell the time. CLOCK_BOOTTIME goes on while the machine sleeps, as Aluma's clock does."""
    boottime = time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
    return Stamp(_boot(), boottime, time.time())


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"process {os.getpid()}"  # another process then measures by the wall clock
