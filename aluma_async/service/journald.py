"""Support for stderr that is connected to the systemd journal, which adds times and reads priorities from a prefix."""

import os
from collections.abc import Mapping

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Syslog priority of each log level."""


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``fd`` is connected to the journal: systemd sets its device and inode in ``JOURNAL_STREAM``."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, level: str, fd: int = 2) -> str:
    """Add the priority prefix to each line, if ``fd`` is connected to the journal."""
    if not is_journal(fd):
        return text
    return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in text.splitlines())
