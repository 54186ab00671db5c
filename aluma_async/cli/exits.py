"""Exit codes, and how an error is told: what is wrong and where, then what to do. No traceback."""

from collections.abc import Iterator

from aluma_async.exceptions import (
    AlumaAsyncError,
    ConfigError,
    CredentialsRefused,
    DestinationError,
    JournalError,
    JournalInUse,
    SourceError,
)
from aluma_async.service.text import printable

DONE = 0
LEFT_BEHIND = 1
NOT_REACHABLE = 69
IN_USE = 75
REFUSED = 77
MISCONFIGURED = 78
INTERRUPTED = 130

_CODES: tuple[tuple[type[AlumaAsyncError], int], ...] = (
    (CredentialsRefused, REFUSED),
    (ConfigError, MISCONFIGURED),
    (JournalInUse, IN_USE),
    (JournalError, NOT_REACHABLE),
    (SourceError, NOT_REACHABLE),
    (DestinationError, NOT_REACHABLE),
)


def exit_code(error: AlumaAsyncError) -> int:
    """Choose the exit code for an error that ends a run before it has begun."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), LEFT_BEHIND)


def error_lines(error: AlumaAsyncError) -> Iterator[str]:
    """Tell an error in one or two lines."""
    yield printable(str(error))
    if error.hint:
        yield printable(error.hint)
