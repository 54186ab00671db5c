"""Maps errors of the drivers to ``DestinationError``. No message repeats a value, because values are customer data.

The text of a server's error is repeated only if no row can be in it: not for the classes that are about values, not if
the error was raised inside a trigger or function, whose author may have put anything into it, and, while rows are
processed, only for classes that no expression of a table can raise for a value.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch

# SQLSTATE codes (a class, or a whole code) from appendix A of PostgreSQL's manual.
_RETRYABLE = ("40001", "40P01", "42P07")  # 42P07: two transactions created the same table at once
_DISK_FULL = "53100"
_QUERY_CANCELED = "57014"
_INTERNAL = "XX"  # also used by extensions, for values that their types cannot have
_UNAVAILABLE = ("08", "28", "3D", "53", "57", "58", "25006")
_WITHOUT_VALUES = ("08", "25", "40", "53", "57", "42501", "42P10", "55P03")
"""Errors whose text contains no value of a row, also while rows are processed. A constraint can cast a text to the name
of a table, so that "does not exist" (42P01) or an unknown database (3D000) may be about a value."""
# The task's rows are refused. A class that is not listed at all was made up by the author of a trigger.
_SERVER_CLASSES = (
    *("00", "01", "02", "03", "08", "0A", "0B", "0F", "0L", "0P", "0Z", "24", "25", "26", "28", "2B", "2D"),
    *("34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX"),
)
_MISMATCH: Mapping[str, tuple[str, str]] = {
    "22001": ("a value is too long for its column", "Widen the column."),
    "22003": ("a number is too big for its column", "Widen the column."),
    "22021": ("a character does not exist in the encoding of the database", "Use a database with encoding UTF8."),
    "22P05": ("a character does not exist in the encoding of the database", "Use a database with encoding UTF8."),
    "21": ("two rows of the file have the same key", "Check key."),
    "22": ("a value does not have the form that the type of its column needs", "Change the type of the column."),
    "23502": ("a column that must not be empty has no value", "Give the column a default, or permit NULL."),
    "23503": (
        "a row refers to another row that does not exist",
        "Add that row; the task is tried again. If it comes later in any case, make the constraint deferrable.",
    ),
    "23505": ("another row has the same value in unique columns", "Check the constraint, and key."),
    "23514": ("a row violates a constraint of the table", "Change the constraint."),
    "23": ("a row violates a constraint of the table", "Change the constraint."),
    "44": ("a row violates the condition of a view", "Change the view."),
    "54": ("a row exceeds a limit of the database", "Remove indexes on long columns, or use fewer columns."),
}
"""Descriptions and hints of rows that do not fit; the longest matching code counts."""
_REFUSED = ("a trigger or function of the database refused a row", "Read the log of the database server.")
_NO_PARTITION = ("no partition of the table takes a row", "Create the partition; the task is tried again.")
_LOG_HINT = "Read the log of the database server; a constraint, an index or a computed column may raise the error."
_ROW_HINTS = {
    "0A000": "A table with rules for INSERT or UPDATE cannot be used with key. Use triggers instead of rules."
}
_HINTS = {
    "42501": "Grant the database user the missing rights; 'aluma-async check' names them.",
    "42P01": "Create the table, or set create = true.",
    "55P03": "Find the transaction that locks the table. If it takes long by design, set lock_timeout for the user.",
    _QUERY_CANCELED: "Raise statement_timeout for the database user.",
}
# Names of SQLite's primary result codes.
_SQLITE_RETRYABLE = ("SQLITE_BUSY", "SQLITE_LOCKED")
_SQLITE_UNAVAILABLE = (
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_NOTADB",
    "SQLITE_CORRUPT",
    "SQLITE_PERM",
    "SQLITE_PROTOCOL",
    "SQLITE_NOMEM",
)
_SQLITE_WITHOUT_VALUES = re.compile(r"no such (?:table|column|function|module)|table \S+ has no column|too many ")
"""Beginnings of texts of SQLITE_ERROR that contain no value of a row."""
_SQLITE_MISMATCH = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
_COPY_LOCATION = re.compile(r"^COPY .*?, \D+?(\d+)(.*)", re.MULTILINE)
_FUNCTION = re.compile(r"^PL/\w+ \S+ \"?(\w+)", re.MULTILINE)
"""A line of an error's context inside functions, the outermost last: ``PL/pgSQL function name(…) line 3 at RAISE``."""
_CHECK_DATABASE = "Check that the database is running and the url is right."
_MAX_MESSAGE_CHARS = 300


def is_transient(error: BaseException) -> bool:
    """Return whether the same transaction may succeed at once: a deadlock, a serialization failure, a busy file."""
    driver_error = _driver_error(error)
    if str(getattr(getattr(driver_error, "diag", None), "constraint_name", None)).startswith("pg_"):
        return True  # two transactions created the same table at once
    code, name = getattr(driver_error, "sqlstate", None), _sqlite_name(driver_error)
    return code in _RETRYABLE or name.startswith(_SQLITE_RETRYABLE)


def map_error(
    error: Exception,
    subject: str,
    columns: Collection[str] = (),
    *,
    may_name_columns: bool = True,
    in_rows: bool = False,
) -> DestinationError:
    """Return the ``DestinationError`` for a driver's error.

    Args:
        error: the error of SQLAlchemy, of the driver or of the operating system.
        subject: the database and the operation, or the file.
        columns: names of columns by which the location of an error is found.
        may_name_columns: False if only the file contains their names.
        in_rows: whether rows were processed.
    """
    driver_error = _driver_error(error)
    code, name = getattr(driver_error, "sqlstate", None), _sqlite_name(driver_error)
    if code:
        if in_rows and code[:2] in _SERVER_CLASSES and not code.startswith(_WITHOUT_VALUES):
            reason = f"the database refused a row ({type(driver_error).__name__})"
            function = _function(getattr(driver_error, "diag", None))
            return DestinationError(f"{subject}: {reason}{function}", hint=_ROW_HINTS.get(code, _LOG_HINT))
        return _map_server_error(driver_error, code, subject, columns, may_name_columns=may_name_columns)
    if name:
        return _map_sqlite_error(driver_error, name, subject)
    kinds = {kind.__name__ for kind in type(driver_error).__mro__}
    if "DataError" in kinds:  # the driver refuses a value; its message may repeat it
        return SchemaMismatch(f"{subject}: the database driver cannot send a value", hint="Check the file.")
    if isinstance(error, sa.exc.TimeoutError | OSError) or kinds & {"OperationalError", "InterfaceError"}:
        return DestinationUnavailable(f"{subject}: {_one_line(driver_error)}", hint=_CHECK_DATABASE)
    return DestinationError(f"{subject}: {type(driver_error).__name__ if in_rows else _one_line(driver_error)}")


def _map_server_error(
    driver_error: BaseException, code: str, subject: str, columns: Collection[str], *, may_name_columns: bool
) -> DestinationError:
    diag: Any = getattr(driver_error, "diag", None)
    message = f"{subject}: {_server_message(driver_error, code, diag)}"
    if code.startswith(_UNAVAILABLE) and code != _QUERY_CANCELED:
        return DestinationUnavailable(message, hint=_CHECK_DATABASE, for_all=code == _DISK_FULL)
    if code[:2] in _SERVER_CLASSES:
        return DestinationError(message, hint=_HINTS.get(code, ""))
    found = (_MISMATCH[known] for known in (code, code[:2]) if known in _MISMATCH)
    reason, hint = next(found, _REFUSED)
    if code == "23514" and not getattr(diag, "constraint_name", None):
        reason, hint = _NO_PARTITION
    return SchemaMismatch(
        f"{subject}: {reason}{_location(diag, columns, may_name_columns=may_name_columns)}", hint=hint
    )


def _map_sqlite_error(driver_error: BaseException, name: str, subject: str) -> DestinationError:
    message = f"{subject}: {_one_line(driver_error)}"
    if name.startswith(_SQLITE_UNAVAILABLE):
        hint = "Check that the file is intact and writable."
        return DestinationUnavailable(message, hint=hint, for_all=name == "SQLITE_FULL")
    if name == "SQLITE_CONSTRAINT_TRIGGER":  # its message is the trigger's
        return SchemaMismatch(f"{subject}: a trigger of the table refused a row", hint="Read the trigger.")
    if name.startswith(_SQLITE_MISMATCH):  # these messages contain only names of columns and constraints
        return SchemaMismatch(message, hint="Change the constraint or the column of the table.")
    if name == "SQLITE_ERROR" and not _SQLITE_WITHOUT_VALUES.match(str(driver_error)):
        return DestinationError(
            f"{subject}: the database refused a statement", hint="Check the triggers and constraints of the table."
        )
    return DestinationError(message)


def _driver_error(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _sqlite_name(driver_error: BaseException) -> str:
    return str(getattr(driver_error, "sqlite_errorname", ""))


def _server_message(driver_error: BaseException, code: str, diag: Any) -> str:
    """Return the server's message, or only its kind if it may have been raised while a row was processed."""
    if code.startswith(_INTERNAL) or getattr(diag, "context", None):
        return f"{type(driver_error).__name__}{_function(diag)}"
    return getattr(diag, "message_primary", None) or _one_line(driver_error)


def _one_line(driver_error: BaseException) -> str:
    lines = [line.strip() for line in str(driver_error).splitlines() if line.strip()]
    return "; ".join(lines)[:_MAX_MESSAGE_CHARS] or type(driver_error).__name__


def _location(diag: Any, columns: Collection[str], *, may_name_columns: bool) -> str:
    """Return row, column and constraint, as far as the server reports them; within a function, only its name."""
    if _function(diag):  # which may have set the other details to anything
        return _function(diag)
    copy = _COPY_LOCATION.search(getattr(diag, "context", None) or "")
    column = getattr(diag, "column_name", None) or (copy and _find_column(copy[2], columns))
    details = {
        "row": copy and copy[1],
        "column": column if may_name_columns else None,
        "constraint": getattr(diag, "constraint_name", None),
    }
    return "".join(f", {label} {detail}" for label, detail in details.items() if detail)


def _function(diag: Any) -> str:
    context = getattr(diag, "context", None) or ""
    if not context or context.startswith("COPY "):
        return ""
    names = _FUNCTION.findall(context)
    return f", in function {names[-1]}" if names else ", in a function"


def _find_column(text: str, columns: Collection[str]) -> str:
    """Return the column that the rest of a COPY location names; the text after it may be a value."""
    return next((name for name in columns if re.match(rf", \S+ {re.escape(name)}[:,]", text)), "")
