"""Exit codes, and an error in one or two lines: what is wrong and where, then what to do. No traceback."""

from collections.abc import Iterator

from aluma_async.exceptions import (
    AlumaAsyncError,
    AuthenticationFailed,
    ConfigError,
    DestinationError,
    FleetStoreError,
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
    (FleetStoreError, UNAVAILABLE),
)
"""The first matching class decides."""

_HINTS: tuple[tuple[type[AlumaAsyncError], str], ...] = (
    (ConfigError, "Correct it; 'aluma-async help configuration' lists the settings."),
    (RateLimited, "Set a lower --max-per-second or fewer --workers."),
    (SourceError, "Try again later, or run 'aluma-async check' to find the cause."),
    (DestinationError, "Run 'aluma-async check' to check each destination."),
    (FleetStoreError, "Check the address, and whether the server runs; exporters continue alone meanwhile."),
    (JournalError, "Run 'aluma-async check' to check the state folder, or choose another one with --state."),
)
"""Hints for errors without a hint of their own; the first matching class decides."""


def exit_code(error: AlumaAsyncError) -> int:
    """Return the exit code for an error that ends a run before it has started."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), INCOMPLETE)


def error_lines(error: AlumaAsyncError, command: str = "") -> Iterator[str]:
    """Yield the message of an error, then its hint, if any; a hint to run ``command``, the present one, is omitted."""
    if isinstance(error, ConfigError) and error.mistakes:
        yield f"{len(error.mistakes)} mistakes in the configuration"
        for mistake in error.mistakes:
            yield "\n  ".join(error_lines(mistake, command))
        return
    yield sanitize(str(error))
    hint = error.hint or next((hint for kind, hint in _HINTS if isinstance(error, kind)), "")
    if hint and not (command and f"'aluma-async {command}'" in hint):
        yield sanitize(hint)
