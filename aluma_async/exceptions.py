"""The errors of this package, as one tree.

The class is the cause. ``retryable`` and ``fatal_after`` determine the reaction: whether the request may be repeated,
and from which attempt on the error counts as the task's own. ``hint`` is the remedy for the operator::

    AlumaAsyncError
    ├── ConfigError                the configuration cannot be used
    ├── SourceError                a request to Aluma failed
    │   ├── RequestRejected        refused, by Aluma or a proxy; says nothing about the task
    │   │   └── AuthenticationFailed   client id and secret, or a new token, were refused
    │   ├── Unavailable            not executed, or a read that can be repeated                retryable
    │   │   ├── Unreachable        no connection: certainly not sent                           retryable
    │   │   └── RateLimited        429: certainly not executed                                 retryable
    │   ├── InvalidResponse        incomplete, or not what was requested                       retryable
    │   │   └── WrongContent       complete, but not the file that was requested               retryable
    │   ├── Ambiguous              sent, outcome unknown
    │   ├── ClaimConflict          the task's state does not allow it: no (valid) claim
    │   └── FileMissing            Aluma does not have the file                                fatal after 3
    ├── BadSpecification           the Export Specification cannot be read                     fatal after 3
    │   └── UnexportableTask       the Export Specification can never be exported              fatal after 1
    ├── DestinationError           the files of one task could not be stored
    │   ├── DestinationUnavailable no task's files can be stored at present
    │   └── SchemaMismatch         the data does not fit the destination's schema              fatal after 1
    └── JournalError               the journal cannot be written
        └── JournalLocked          another process uses the state folder

No message contains document content, a token or a secret.
"""

from typing import ClassVar


class AlumaAsyncError(Exception):
    """Base class of all errors that this package raises."""

    retryable: ClassVar[bool] = False
    """Whether the same request may be repeated, also one that changes a task."""
    fatal_after: ClassVar[int | None] = None
    """The attempt (from 1) from which this error is permanent for the task; None: it is always temporary."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        """What the operator can do, as one imperative sentence; may be empty."""


class ConfigError(AlumaAsyncError):
    """The configuration (file, environment or option) cannot be used."""


class SourceError(AlumaAsyncError):
    """A request to Aluma failed."""

    overloaded: bool = False
    """Whether it indicates too many concurrent requests: 429, 503, or no response in time."""

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, overloaded: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds that the server asked to wait before the next request (Retry-After), or None."""
        self.overloaded = overloaded or self.overloaded


class RequestRejected(SourceError):
    """Aluma or a proxy refused the request for a reason that is not the task's state: 401, 403, 405, a web page, ...

    As far as is known, the request was not executed. A claim is neither made nor lost.
    """


class AuthenticationFailed(RequestRejected):
    """The client id and secret were refused, or a token that was just obtained with them."""


class Unavailable(SourceError):
    """The request was not executed, or was a read that can be repeated."""

    retryable = True


class Unreachable(Unavailable):
    """No connection: the request was certainly not sent."""


class RateLimited(Unavailable):
    """Too many requests (429): the request was certainly not executed."""

    overloaded = True


class InvalidResponse(SourceError):
    """The response is unreadable, incomplete, not provably complete, or of an unexpected type."""

    retryable = True


class WrongContent(InvalidResponse):
    """A download is complete, but its bytes cannot be those of a file with this name."""


class Ambiguous(SourceError):
    """A request that changes a task was sent, and its outcome is unknown."""


class ClaimConflict(SourceError):
    """The task's state does not allow the request: this exporter holds no valid claim."""


class FileMissing(SourceError):
    """Aluma does not have the file (404, 410). Fatal only after several attempts, because files may appear late."""

    fatal_after = 3


class BadSpecification(AlumaAsyncError):
    """The Export Specification cannot be read. Fatal only after several attempts, because a proxy may be the cause."""

    fatal_after = 3

    def __init__(self, message: str, *, hint: str = "", received: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.received = received
        """The specification as received. It contains document content, so never log it."""


class UnexportableTask(BadSpecification):
    """The Export Specification was read, but can never be exported."""

    fatal_after = 1


class DestinationError(AlumaAsyncError):
    """The files of one task could not be stored; other tasks may succeed."""


class DestinationUnavailable(DestinationError):
    """No task's files can be stored at present (disk full, read-only, folder or server unreachable)."""


class SchemaMismatch(DestinationError):
    """The data does not fit the destination's schema, for example a row that has no matching column."""

    fatal_after = 1


class JournalError(AlumaAsyncError):
    """The journal cannot be written, so no task may be claimed."""


class JournalLocked(JournalError):
    """Another process uses the state folder."""


def primary_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that determines the reaction: permanent errors first, then those of this package."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            flat.append(error)
    return max(flat, key=lambda e: (getattr(e, "fatal_after", None) is not None, isinstance(e, AlumaAsyncError)))
