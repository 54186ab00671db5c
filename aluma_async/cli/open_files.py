"""The system's limit of open files, which must suffice for the configured workers."""

import logging
import sys
import time
from collections.abc import Iterator

from aluma_async.config import Config

_FIXED = 100
"""Open files of a process besides those of its workers: modules, journal, logs, connections of the health port."""
_ACCEPT_ERROR = "socket.accept() out of system resource"
_REPEAT_SECONDS = 60.0
_FILES_PER_WORKER = 4
"""A connection, a staged file, and folders."""


def raise_limit(config: Config) -> Iterator[str]:
    """Raise the soft limit as far as needed and allowed; yield a warning if it may not suffice."""
    if sys.platform == "win32":  # its limit is far higher
        return
    import resource

    needed = _FIXED + _FILES_PER_WORKER * config.exporter.workers + config.max_at_once
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < needed:
        yield (
            f"{config.exporter.workers} workers need up to {needed} open files, and the system allows {allowed}; "
            "raise its limit (ulimit -n, LimitNOFILE=), or use fewer workers"
        )


class AcceptErrorFilter(logging.Filter):
    """Passes one message per minute about a connection that cannot be accepted for lack of a descriptor.

    asyncio logs it with a stack, a hundred times a second for each port.
    """

    _passed_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message of asyncio is logged."""
        if not str(record.msg).startswith(_ACCEPT_ERROR):
            return True
        if time.monotonic() < self._passed_at + _REPEAT_SECONDS:
            return False
        self._passed_at = time.monotonic()
        record.exc_info = None
        return True
