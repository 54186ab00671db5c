"""Everything that can go wrong, as one tree.

The class says what happened, ``retryable`` what may be done about the request, ``fatal_after`` what
it means for the task, ``hint`` what the operator can do::

    AlumaAsyncError
    ├── ConfigError                what the user wrote cannot be used
    ├── SourceError                Aluma did not do what was asked
    │   ├── AuthenticationFailed     the client id and secret, or a fresh token, were refused
    │   ├── Unavailable            not carried out, or a read that can simply be made again    retryable
    │   │   ├── Unreachable        never connected: surely not sent                            retryable
    │   │   └── RateLimited        429: surely not carried out                                 retryable
    │   ├── InvalidResponse               an answer that cannot be trusted or read                    retryable
    │   ├── Ambiguous              sent, and nobody knows whether it was carried out
    │   ├── ClaimConflict                the task's state does not fit: it is not ours (any more)
    │   └── FileMissing            Aluma has no such file                                      fatal after 3
    ├── BadSpecification           what is to be exported cannot be read                       fatal after 3
    │   └── UnexportableTask       what is to be exported can never be exported                fatal after 1
    ├── DestinationError           this task's files could not be written
    │   ├── DestinationUnavailable nobody's files can be written just now
    │   └── SchemaMismatch             what a file holds is not what the destination takes         fatal after 1
    └── JournalError               what must not be forgotten cannot be written down
        └── JournalLocked           another process uses the state folder

No message holds a document's content, a token or a secret.
"""

from typing import ClassVar


class AlumaAsyncError(Exception):
    """Base of all errors raised by this package."""

    retryable: ClassVar[bool] = False
    """The same request may simply be sent again, whatever it asks for."""
    fatal_after: ClassVar[int | None] = None
    """The attempt at a task from which this error is the task's own and will not pass; None: it may always pass."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(AlumaAsyncError):
    """What the user wrote (config file, environment, option) cannot be used."""


class SourceError(AlumaAsyncError):
    """Aluma did not do what was asked."""

    overloaded: bool = False
    """Whether it tells of too many requests at once: 429, 503, or no answer in time."""

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, overloaded: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds for which Aluma asked all requests to wait, if it did."""
        self.overloaded = overloaded or self.overloaded


class AuthenticationFailed(SourceError):
    """The client id and secret were refused, or a token just obtained with them was."""


class Unavailable(SourceError):
    """Not carried out, or a read, which can simply be made again."""

    retryable = True


class Unreachable(Unavailable):
    """No connection: the request was surely not sent."""


class RateLimited(Unavailable):
    """Too many requests (429): the request was surely not carried out."""

    overloaded = True


class InvalidResponse(SourceError):
    """An answer that cannot be trusted (cut short, not provably whole, of another kind) or read."""

    retryable = True


class Ambiguous(SourceError):
    """A request that changes a task was sent, and nobody knows whether it was carried out."""


class ClaimConflict(SourceError):
    """The task's state does not fit the request: the claim is not ours, or not ours any more."""


class FileMissing(SourceError):
    """Aluma has no such thing (404, 410); a file may appear late, so it is fatal only after some attempts."""

    fatal_after = 3


class BadSpecification(AlumaAsyncError):
    """The Export Specification cannot be read; a proxy may be to blame, so it is fatal only after some attempts."""

    fatal_after = 3

    def __init__(self, message: str, *, hint: str = "", received: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.received = received
        """The specification as it came; it holds content, so it belongs in no log."""


class UnexportableTask(BadSpecification):
    """The Export Specification was read, and what it asks for can never be done."""

    fatal_after = 1


class DestinationError(AlumaAsyncError):
    """A task's files could not be written; those of others may well be."""


class DestinationUnavailable(DestinationError):
    """Nobody's files can be written just now (disk full, read-only, folder away)."""


class SchemaMismatch(DestinationError):
    """What a file holds is not what the destination takes (a row that a table has no room for)."""

    fatal_after = 1


class JournalError(AlumaAsyncError):
    """What must not be forgotten cannot be written down, so nothing may be claimed."""


class JournalLocked(JournalError):
    """Another process uses the state folder."""


def primary_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several errors of one task the one that decides: what will not pass before what may, ours before others'."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            flat.append(error)
    return max(flat, key=lambda e: (getattr(e, "fatal_after", None) is not None, isinstance(e, AlumaAsyncError)))
