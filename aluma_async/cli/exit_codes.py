"""Exit codes, and how an error is told: what is wrong and where, then what to do. No traceback."""

from collections.abc import Iterator

from aluma_async.exceptions import (
    AlumaAsyncError,
    AuthenticationFailed,
    ConfigError,
    DestinationError,
    JournalError,
    JournalLocked,
    RateLimited,
    SourceError,
)
from aluma_async.service.formatting import sanitize

OK = 0
INCOMPLETE = 1
UNAVAILABLE = 69
STATE_IN_USE = 75
AUTH_FAILED = 77
MISCONFIGURED = 78
INTERRUPTED = 130

_CODES: tuple[tuple[type[AlumaAsyncError], int], ...] = (
    (AuthenticationFailed, AUTH_FAILED),
    (ConfigError, MISCONFIGURED),
    (JournalLocked, STATE_IN_USE),
    (JournalError, UNAVAILABLE),
    (SourceError, UNAVAILABLE),
    (DestinationError, UNAVAILABLE),
)


_HINTS: tuple[tuple[type[AlumaAsyncError], str], ...] = (
    (ConfigError, "'aluma-async config show' tells what is in effect, and where it came from."),
    (RateLimited, "Fewer requests: --max-per-second, or fewer workers."),
    (SourceError, "It may pass, so try again; 'aluma-async check' tries everything on the way."),
    (DestinationError, "'aluma-async check' tries every destination."),
    (JournalError, "'aluma-async check' tries the state folder; --state names another."),
)
"""For errors that bring none of their own."""


def exit_code(error: AlumaAsyncError) -> int:
    """Choose the exit code for an error that ends a run before it has begun."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), INCOMPLETE)


def error_lines(error: AlumaAsyncError) -> Iterator[str]:
    """Tell an error in one or two lines."""
    yield sanitize(str(error))
    if hint := error.hint or next((hint for kind, hint in _HINTS if isinstance(error, kind)), ""):
        yield sanitize(hint)
