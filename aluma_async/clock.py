"""The clocks of the package: the event loop's, the system's, and one for times that outlive the process."""

import os
import time
from asyncio import get_running_loop
from pathlib import Path

from aluma_async.models import Timestamp

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC if hasattr(time, "CLOCK_MONOTONIC") else None)


def loop_time() -> float:
    """Return the event loop's time in seconds; the same as ``anyio.current_time``, but nine times as fast."""
    return get_running_loop().time()


def thread_time() -> float:
    """Return the seconds of a monotonic clock that any thread may read."""
    return time.monotonic()


def thread_sleep(seconds: float) -> None:
    """Sleep in a thread that has no event loop."""
    time.sleep(seconds)


def wall_time() -> float:
    """Return the seconds since 1970."""
    return time.time()


def system_clock() -> Timestamp:
    """Return the current time. It includes suspension (CLOCK_BOOTTIME), because leases at Aluma continue meanwhile."""
    boottime = time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
    return Timestamp(_BOOT, boottime, time.time())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"process {os.getpid()}"  # so that another process uses the wall clock


_BOOT = _boot_id()
