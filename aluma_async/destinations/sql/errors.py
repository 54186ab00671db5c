"""What the errors of a database mean for us. No message of ours repeats a value: that is a customer's."""

import re

import sqlalchemy as sa

from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch

# SQLSTATE (its class, or all of it) as PostgreSQL's manual lists them in appendix A.
_AGAIN = ("40001", "40P01", "42P07")  # the last: two made the same table at once
_AWAY = ("08", "28", "3D", "53", "57", "58", "25006")
_MISFIT = ("21", "22", "23")
# SQLite's primary result codes by name.
_SQLITE_AGAIN = ("SQLITE_BUSY", "SQLITE_LOCKED")
_SQLITE_AWAY = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_NOTADB", "SQLITE_CORRUPT")
_SQLITE_MISFIT = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
_WHERE = re.compile(r"COPY \S+, line (\d+)(?:, column ([^:]+))?")


def may_pass(error: BaseException) -> bool:
    """Whether the very same transaction may go through at once: a deadlock, a serialization failure, a busy file."""
    cause = _cause(error)
    if str(getattr(getattr(cause, "diag", None), "constraint_name", None)).startswith("pg_"):
        return True  # two made the same table at once
    return getattr(cause, "sqlstate", None) in _AGAIN or _sqlite_name(cause).startswith(_SQLITE_AGAIN)


def told(error: Exception, what: str) -> DestinationError:
    """Make ours of a driver's error; ``what`` says what was being written, and where to."""
    cause = _cause(error)
    state, name = getattr(cause, "sqlstate", None), _sqlite_name(cause)
    if state is None and not name:
        if isinstance(error, sa.exc.NoSuchTableError):
            return DestinationError(f"{what}: there is no table {error}", hint="Make it, or set create = true.")
        return DestinationUnavailable(f"{what}: {_first_line(cause)}", hint="Is the database up, and is the url right?")
    if state and state.startswith(_AWAY):
        return DestinationUnavailable(f"{what}: {_first_line(cause)}", hint="Is the database up, and is the url right?")
    if name.startswith(_SQLITE_AWAY):
        return DestinationUnavailable(f"{what}: {_first_line(cause)}", hint="Is the file there, whole and writable?")
    if (state and state.startswith(_MISFIT)) or name.startswith(_SQLITE_MISFIT):
        return SchemaMismatch(f"{what}: {type(cause).__name__}{_where(cause)}")
    return DestinationError(f"{what}: {_primary(cause)}")


def _cause(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _sqlite_name(cause: BaseException) -> str:
    return str(getattr(cause, "sqlite_errorname", ""))


def _primary(cause: BaseException) -> str:
    message = getattr(getattr(cause, "diag", None), "message_primary", None)
    return message or _first_line(cause)


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip() or type(cause).__name__).splitlines()[0][:300]


def _where(cause: BaseException) -> str:
    """Column, constraint and line, as far as the server tells; SQLite's message names columns only."""
    diag = getattr(cause, "diag", None)
    if diag is None:
        return f": {_first_line(cause)}"
    found = _WHERE.search(diag.context or "")
    places = {
        "row": found and found[1],
        "column": diag.column_name or (found and found[2]),
        "constraint": diag.constraint_name,
    }
    return "".join(f", {label} {place}" for label, place in places.items() if place)
