"""What the errors of a database mean for us. No message of ours repeats a value: that is a customer's."""

import re

import sqlalchemy as sa

from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch

# SQLSTATE (its class, or all of it) as PostgreSQL's manual lists them in appendix A.
_RETRYABLE = ("40001", "40P01", "42P07")  # the last: two made the same table at once
_UNAVAILABLE = ("08", "28", "3D", "53", "57", "58", "25006")
_MISMATCH = ("21", "22", "23")
# SQLite's primary result codes by name.
_SQLITE_RETRYABLE = ("SQLITE_BUSY", "SQLITE_LOCKED")
_SQLITE_UNAVAILABLE = (
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_NOTADB",
    "SQLITE_CORRUPT",
)
_SQLITE_MISMATCH = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
_COPY_LOCATION = re.compile(r"COPY \S+, line (\d+)(?:, column ([^:]+))?")


def is_transient(error: BaseException) -> bool:
    """Whether the very same transaction may go through at once: a deadlock, a serialization failure, a busy file."""
    cause = _driver_error(error)
    if str(getattr(getattr(cause, "diag", None), "constraint_name", None)).startswith("pg_"):
        return True  # two made the same table at once
    return getattr(cause, "sqlstate", None) in _RETRYABLE or _sqlite_name(cause).startswith(_SQLITE_RETRYABLE)


def map_error(error: Exception, subject: str) -> DestinationError:
    """Make ours of a driver's error; ``what`` says what was being written, and where to."""
    cause = _driver_error(error)
    state, name = getattr(cause, "sqlstate", None), _sqlite_name(cause)
    if state is None and not name:
        if isinstance(error, sa.exc.NoSuchTableError):
            return DestinationError(f"{subject}: there is no table {error}", hint="Make it, or set create = true.")
        return DestinationUnavailable(
            f"{subject}: {_first_line(cause)}", hint="Is the database up, and is the url right?"
        )
    if state and state.startswith(_UNAVAILABLE):
        return DestinationUnavailable(
            f"{subject}: {_first_line(cause)}", hint="Is the database up, and is the url right?"
        )
    if name.startswith(_SQLITE_UNAVAILABLE):
        return DestinationUnavailable(f"{subject}: {_first_line(cause)}", hint="Is the file there, whole and writable?")
    if (state and state.startswith(_MISMATCH)) or name.startswith(_SQLITE_MISMATCH):
        return SchemaMismatch(f"{subject}: {type(cause).__name__}{_location(cause)}")
    return DestinationError(f"{subject}: {_primary_message(cause)}")


def _driver_error(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _sqlite_name(cause: BaseException) -> str:
    return str(getattr(cause, "sqlite_errorname", ""))


def _primary_message(cause: BaseException) -> str:
    message = getattr(getattr(cause, "diag", None), "message_primary", None)
    return message or _first_line(cause)


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]


def _location(cause: BaseException) -> str:
    """Column, constraint and line, as far as the server tells; SQLite's message names columns only."""
    diag = getattr(cause, "diag", None)
    if diag is None:
        return f": {_first_line(cause)}"
    match = _COPY_LOCATION.search(diag.context or "")
    details = {
        "row": match and match[1],
        "column": diag.column_name or (match and match[2]),
        "constraint": diag.constraint_name,
    }
    return "".join(f", {label} {detail}" for label, detail in details.items() if detail)
