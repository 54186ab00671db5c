"""Maps errors of the drivers to ``DestinationError``. No message repeats a value, because values are customer data."""

import re

import sqlalchemy as sa

from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch

# SQLSTATE codes (a class, or a whole code) from appendix A of PostgreSQL's manual.
_RETRYABLE = ("40001", "40P01", "42P07")  # 42P07: two transactions created the same table at once
_UNAVAILABLE = ("08", "28", "3D", "53", "57", "58", "25006")
_MISMATCH = ("21", "22", "23")
# Names of SQLite's primary result codes.
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
_CHECK_DATABASE = "Check that the database is running and the url is right."


def is_transient(error: BaseException) -> bool:
    """Return whether the same transaction may succeed at once: a deadlock, a serialization failure, a busy file."""
    driver_error = _driver_error(error)
    if str(getattr(getattr(driver_error, "diag", None), "constraint_name", None)).startswith("pg_"):
        return True  # two transactions created the same table at once
    code, name = getattr(driver_error, "sqlstate", None), _sqlite_name(driver_error)
    return code in _RETRYABLE or name.startswith(_SQLITE_RETRYABLE)


def map_error(error: Exception, subject: str) -> DestinationError:
    """Return the ``DestinationError`` for a driver's error; ``subject`` names the database and the operation."""
    driver_error = _driver_error(error)
    code, name = getattr(driver_error, "sqlstate", None), _sqlite_name(driver_error)
    if code is None and not name:
        if isinstance(error, sa.exc.NoSuchTableError):
            return DestinationError(f"{subject}: table {error} does not exist", hint="Create it, or set create = true.")
        return DestinationUnavailable(f"{subject}: {_first_line(driver_error)}", hint=_CHECK_DATABASE)
    if code and code.startswith(_UNAVAILABLE):
        return DestinationUnavailable(f"{subject}: {_first_line(driver_error)}", hint=_CHECK_DATABASE)
    if name.startswith(_SQLITE_UNAVAILABLE):
        return DestinationUnavailable(
            f"{subject}: {_first_line(driver_error)}", hint="Check that the file is intact and writable."
        )
    if (code and code.startswith(_MISMATCH)) or name.startswith(_SQLITE_MISMATCH):
        return SchemaMismatch(f"{subject}: {type(driver_error).__name__}{_location(driver_error)}")
    return DestinationError(f"{subject}: {_primary_message(driver_error)}")


def _driver_error(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _sqlite_name(driver_error: BaseException) -> str:
    return str(getattr(driver_error, "sqlite_errorname", ""))


def _primary_message(driver_error: BaseException) -> str:
    message = getattr(getattr(driver_error, "diag", None), "message_primary", None)
    return message or _first_line(driver_error)


def _first_line(driver_error: BaseException) -> str:
    return (str(driver_error).strip() or type(driver_error).__name__).splitlines()[0][:300]


def _location(driver_error: BaseException) -> str:
    """Return row, column and constraint, as far as the server reports them.

    For SQLite, return its message, which contains only names of columns and constraints.
    """
    diag = getattr(driver_error, "diag", None)
    if diag is None:
        return f": {_first_line(driver_error)}"
    match = _COPY_LOCATION.search(diag.context or "")
    details = {
        "row": match and match[1],
        "column": diag.column_name or (match and match[2]),
        "constraint": diag.constraint_name,
    }
    return "".join(f", {label} {detail}" for label, detail in details.items() if detail)
