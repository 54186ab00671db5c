"""The systemd journal as the reader of stderr: it knows the time of a line, and takes its priority from a prefix."""

import os
from collections.abc import Mapping

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""As syslog has them, by level."""


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to ``fd`` goes to the journal: systemd tells device and inode in ``JOURNAL_STREAM``."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, level: str, fd: int = 2) -> str:
    """Put the priority before each line of what is about to be written, if the journal reads it."""
    if not is_journal(fd):
        return text
    return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in text.splitlines())
