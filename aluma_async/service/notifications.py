"""``Notifier``: sends events that an administrator should know of to a command or a webhook.

A notification contains its kind, a sentence, the task's id and the error; never names, content or secrets. Exports
never wait for one: a notification that cannot be sent in time is logged and dropped.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

import anyio
from msgspec import Struct, structs

from aluma_async import events
from aluma_async.events import Event
from aluma_async.policy.deadline import seconds_left
from aluma_async.service.formatting import (
    describe_deadline,
    format_bytes,
    format_duration,
    pluralize,
    sanitize,
    without_task,
)

Kind: TypeAlias = Literal[
    "parked", "gone", "quarantined", "quarantine-nearly-full", "paused", "resumed", "oldest-task-too-old"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_QUEUED = 100
"""Maximum number of notifications that wait to be sent; further ones are logged and dropped."""
SEND_TIMEOUT_SECONDS = 10.0
"""Seconds that a channel may take for one notification."""
FINISH_TIMEOUT_SECONDS = 10.0
"""Seconds to send the waiting notifications after the run has ended."""
_MAX_TEXT_CHARS = 500

Channel: TypeAlias = Callable[["Notification"], Awaitable[None]]
"""Sends one notification; raises ``NotificationError`` if it fails."""


class Notification(Struct, frozen=True, omit_defaults=True):
    """The JSON that a command reads from its standard input, and that a webhook receives as its body."""

    event: Kind
    time: str
    text: str
    """A sentence; chat services expect this name."""
    task: str = ""
    error: str = ""
    error_type: str = ""
    seconds_left: int | None = None
    """Seconds until Aluma deletes the task; None if that is not known."""


class NotificationError(Exception):
    """A notification could not be sent; the message gives the reason, but no URL."""


class Notifier:
    """Queues notifications for events, and sends each to all channels, one after the other.

    Args:
        channels: Where to send notifications.
        max_task_age_seconds: Notify when the oldest pending task exceeds this age; 0: never.
        task_deadline_seconds: How long projects keep a task from its creation; 0: not known.
        log: Receives the reason when a notification is lost.
        now: Returns seconds since 1970.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        max_task_age_seconds: float = 0,
        task_deadline_seconds: float = 0,
        log: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._channels = channels
        self._max_task_age_seconds = max_task_age_seconds
        self._log = log
        self._now = now
        self._task_deadline_seconds = task_deadline_seconds
        self._copies: dict[str, str] = {}
        self._too_old = False
        self._oldest: float | None = None
        self._send, self._receive = anyio.create_memory_object_stream[Notification](MAX_QUEUED)

    def __call__(self, event: Event) -> None:
        """Queue the notifications for an event."""
        for notification in self._notifications_for(event):
            try:
                self._send.send_nowait(notification)
            except anyio.WouldBlock:
                self._log(f"{notification.event}: not sent, {MAX_QUEUED} others are queued")

    async def run(self) -> None:
        """Send notifications until cancelled."""
        async for notification in self._receive:
            for channel in self._channels:
                await self._send_to(channel, notification)

    async def finish(self) -> None:
        """Send the remaining notifications at the end of a run, within ``FINISH_TIMEOUT_SECONDS``."""
        with anyio.move_on_after(FINISH_TIMEOUT_SECONDS):
            self._send.close()
            await self.run()
        if remaining := self._receive.statistics().current_buffer_used:
            self._log(f"{pluralize(remaining, 'notification')} not sent before the end of the run")
        self._receive.close()

    async def _send_to(self, channel: Channel, notification: Notification) -> None:
        try:
            with anyio.fail_after(SEND_TIMEOUT_SECONDS, shield=True):  # so that the end of a run does not interrupt it
                await channel(notification)
        except TimeoutError:
            self._log(f"{notification.event}: not sent within {SEND_TIMEOUT_SECONDS:.0f} s")
        except NotificationError as error:
            self._log(f"{notification.event}: not sent: {error}")
        except Exception as error:  # noqa: BLE001 - a notification must never end a run
            self._log(f"{notification.event}: not sent: unexpected {type(error).__name__}")

    def _notifications_for(self, event: Event) -> Iterator[Notification]:
        match event:
            case events.TaskParked(task=task, hold=hold):
                failures = pluralize(hold.failures, "failure")
                left = seconds_left(hold.created_at, self._task_deadline_seconds, self._now())
                age = None if hold.created_at is None else self._now() - hold.created_at
                notes = "".join(f"; {note}" for note in (describe_deadline(age, left), self._copy_of(task.id)) if note)
                text = f"parked for {format_duration(hold.seconds)} after {failures}{notes}: {hold.message}"
                parked = self._build("parked", text, task.id, hold.message, hold.error)
                yield parked if left is None else structs.replace(parked, seconds_left=round(left))
            case events.TaskGone(task=task, hold=hold, reason=reason):
                text = f"{reason}; not exported by this exporter, which may have a copy in the quarantine: redeliver it"
                yield self._build("gone", text, task.id, "", hold.error)
            case events.CopyStored(task=task, missing=missing):
                incomplete = f"its copy lacks {pluralize(missing, 'file')}"
                self._copies[task.id] = incomplete if missing else "a complete copy is in the quarantine"
            case events.CopyFailed(task=task):
                self._copies[task.id] = "it has no copy in the quarantine"
            case events.QuarantineNearlyFull(used_bytes=used, max_bytes=maximum):
                text = f"the quarantine has {format_bytes(used)} of {format_bytes(maximum)}"
                yield self._build("quarantine-nearly-full", f"{text}; when it is full, parked tasks get no copy")
            case events.TaskFailed(task=task, error=error):
                text = f"failed at Aluma, its content is in the quarantine: {error}"
                yield self._build("quarantined", text, task.id, str(error), type(error).__name__)
            case events.ClaimingPaused(error=error):
                text = f"claiming paused: {error.text}"
                yield self._build("paused", text, "", str(error), type(error).__name__)
            case events.ClaimingResumed():
                yield self._build("resumed", "claiming resumed")
            case events.TasksListed(oldest_created_at=oldest):
                self._oldest = oldest
                yield from self._check_oldest_task()
            case events.ListingFailed():
                yield from self._check_oldest_task()

    def _copy_of(self, task_id: str) -> str:
        """Return what happened to the copy of a task since it was claimed; empty if it was not changed."""
        copy = self._copies.pop(task_id, "")
        if len(self._copies) > MAX_QUEUED:  # of tasks that were failed, or whose claim was lost
            self._copies.clear()
        return copy

    def _check_oldest_task(self) -> Iterator[Notification]:
        """Notify once when the age exceeds its limit, and again only after it has been below."""
        age = 0.0 if self._oldest is None else self._now() - self._oldest
        too_old = bool(self._max_task_age_seconds) and age > self._max_task_age_seconds
        if too_old and not self._too_old:
            text = f"a task has been pending for {format_duration(age)}; Aluma deletes overdue tasks"
            yield self._build("oldest-task-too-old", text)
        self._too_old = too_old

    def _build(self, kind: Kind, message: str, task: str = "", error: str = "", error_type: str = "") -> Notification:
        time_text = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if task:
            message = f"task {task}: {message.removesuffix(error)}{without_task(error, task)}"
        text = sanitize(message, _MAX_TEXT_CHARS)
        return Notification(kind, time_text, text, task, sanitize(error, _MAX_TEXT_CHARS), error_type)
