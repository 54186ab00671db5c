"""The errors of this package, as one tree.

The class is the cause. Its attributes determine the reaction: ``retryable`` whether the request may be repeated,
``persistent`` whether the task is parked soon, ``fatal`` whether it may be failed. ``hint`` is the remedy for the
operator::

    AlumaAsyncError
    ├── ConfigError                the configuration cannot be used
    │   └── ConfigMistakes         for several reasons
    ├── SourceError                a request to Aluma failed
    │   ├── RequestRejected        refused by Aluma or a proxy, not because of the task's state
    │   │   └── AuthenticationFailed   client id and secret, or a new token, were refused
    │   ├── Unavailable            not executed, or a read that can be repeated                retryable
    │   │   ├── Unreachable        no connection: certainly not sent                           retryable
    │   │   └── RateLimited        429: certainly not executed                                 retryable
    │   ├── InvalidResponse        incomplete, or not what was requested                       retryable
    │   │   └── WrongContent       complete, but not the file that was requested               retryable
    │   ├── Ambiguous              sent, outcome unknown
    │   ├── ClaimConflict          the task's state does not allow it: no (valid) claim
    │   └── FileMissing            Aluma or a proxy answered that there is no such file   persistent
    ├── BadSpecification           the Export Specification cannot be exported as it is        persistent
    │   └── UnexportableTask       its text can never be exported, anywhere                    fatal
    ├── DestinationError           the files of one task could not be stored
    │   ├── DestinationUnavailable no task's files can be stored at present
    │   ├── SchemaMismatch         the data does not fit the destination's schema              persistent
    │   └── AlreadyExported        an earlier export has stored another version
    ├── Crash                      the exporter process has ended repeatedly during the export of a task
    ├── FailConfirmed              the administrator has confirmed that the task is failed      fatal
    ├── JournalError               the journal cannot be written
    │   ├── JournalLocked          another process uses the state folder
    │   └── JournalLost            its file was removed or replaced while the exporter runs
    └── FleetStoreError            the store of a fleet cannot be used, so that the exporter continues alone

No message contains document content, a token or a secret.
"""

from collections.abc import Sequence
from typing import ClassVar


class AlumaAsyncError(Exception):
    """Base class of all errors that this package raises."""

    retryable: ClassVar[bool] = False
    """Whether the same request may be repeated, also one that changes a task."""
    persistent: ClassVar[bool] = False
    """Whether further attempts are expected to fail in the same way until a setting or the destination is changed."""
    fatal: ClassVar[bool] = False
    """Whether the task's own content can never be exported, anywhere. Only then may the exporter fail the task."""
    spares_others: bool = False
    """Whether other tasks can be exported meanwhile: only this one must wait for ``retry_after``, because Aluma answers
    other requests, or their files go to another destination."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        """What the operator can do, as one imperative sentence; may be empty."""

    @property
    def text(self) -> str:
        """The message and the hint as one text."""
        return f"{self}. {self.hint}" if self.hint else str(self)


class ConfigError(AlumaAsyncError):
    """The configuration (file, environment or option) cannot be used."""

    mistakes: Sequence["ConfigError"] = ()
    """The mistakes, if there are several."""

    def __init__(self, message: str, *, hint: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        """Names of the tables and the key in the file; empty if unknown, or if the message has the line."""


class ConfigMistakes(ConfigError):
    """Several mistakes of a configuration."""

    def __init__(self, mistakes: Sequence[ConfigError]) -> None:
        texts = "; ".join(mistake.text.rstrip(".") for mistake in mistakes)
        super().__init__(f"{len(mistakes)} mistakes: {texts}", hint="Correct all of them.")
        self.mistakes = tuple(mistakes)


class SourceError(AlumaAsyncError):
    """A request to Aluma failed."""

    overloaded: bool = False
    """Whether it indicates too many concurrent requests: 429, 503, or no response in time."""
    ended_early: bool = False
    """Whether the request was ended early because other tasks wait, which is no failure of its task."""

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float | None = None, overloaded: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        """Seconds that the server asked to wait before the next request (Retry-After), or None."""
        self.overloaded = overloaded or self.overloaded
        self.of_machine = False
        """Whether this machine is the cause: it has no file descriptor left for a connection."""
        self.operation = ""
        """The request about one task (not a listing) that the server answered; empty if it is about no single task."""


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
    """The file was not found (404, 410). Never fatal, because it may appear late, and a proxy may be the cause."""

    persistent = True


class BadSpecification(AlumaAsyncError):
    """The Export Specification is unreadable, empty, or has a file that cannot be exported.

    Never fatal, because a proxy, a setting or an outdated exporter may be the cause.
    """

    persistent = True

    def __init__(self, message: str, *, hint: str = "", received: bytes = b"") -> None:
        super().__init__(message, hint=hint)
        self.received = received
        """The specification as received. It contains document content, so never log it."""


class UnexportableTask(BadSpecification):
    """The Export Specification contains text that is not valid Unicode, so that no destination can ever store it."""

    fatal = True


class Crash(AlumaAsyncError):
    """The exporter process has ended repeatedly during the export of a task, whatever the cause."""


class FailConfirmed(AlumaAsyncError):
    """The administrator has confirmed that the task is failed (``aluma-async fail``). Raised only by that command."""

    fatal = True


class DestinationError(AlumaAsyncError):
    """The files of one task could not be stored; other tasks may succeed."""


class DestinationUnavailable(DestinationError):
    """Probably no task's files can be stored at present (disk full, server unreachable); the probe decides."""

    for_all: bool = False
    """Whether it concerns all tasks although the probe may succeed: a full disk has room for its few bytes."""

    def __init__(self, message: str, *, hint: str = "", for_all: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.for_all = for_all


class SchemaMismatch(DestinationError):
    """The data does not fit the destination's schema. Never fatal, because the schema can be changed."""

    persistent = True


class AlreadyExported(DestinationError):
    """A redelivery would replace another version that an earlier export has stored, and that may be newer."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"{subject}: an earlier export has stored another version",
            hint="Compare them; 'aluma-async redeliver --replace' replaces it, if the copy is complete.",
        )


class JournalError(AlumaAsyncError):
    """The journal cannot be written, so no task may be claimed."""


class JournalLocked(JournalError):
    """Another process uses the state folder."""


class JournalLost(JournalError):
    """The file of the journal was removed or replaced while the exporter runs, which must end."""


class FleetStoreError(AlumaAsyncError):
    """The store of a fleet did not answer in time, or with an error. The call may have been executed."""


def primary_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group that determines the reaction: persistent ones first, then those of this package."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            flat.append(error)
    return max(flat, key=lambda e: (getattr(e, "persistent", False), isinstance(e, AlumaAsyncError)))
