"""``Notifier``: tells somebody outside (a command, a webhook) what a person should know of. Nothing waits for it.

A notification holds the kind, a sentence, the task's id and the error; never names, content or secrets. What cannot
be told in time is logged and left: an export is never disturbed.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import anyio
from msgspec import Struct

from aluma_async import events
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.service.formatting import format_duration, sanitize

Kind: TypeAlias = Literal["parked", "quarantined", "paused", "resumed", "oldest-task-too-old"]
KINDS: tuple[Kind, ...] = ("parked", "quarantined", "paused", "resumed", "oldest-task-too-old")

MAX_QUEUED = 100
"""Notifications that wait; what comes beyond is dropped, and that is logged."""
SEND_TIMEOUT_SECONDS = 10.0
"""How long a command or webhook may take for one of them."""
FINISH_TIMEOUT_SECONDS = 10.0
"""How long what waits may still take when the run is over."""
_MAX_TEXT_CHARS = 500

Channel: TypeAlias = Callable[["Notification"], Awaitable[None]]
"""Tells one notification; raises ``NotTold`` if it did not get through."""


class Notification(Struct, frozen=True, omit_defaults=True):
    """What a command gets on its standard input, and a webhook as its body (JSON)."""

    event: Kind
    time: str
    text: str
    """A sentence; what chat services look for has this name."""
    task: str = ""
    error: str = ""
    error_type: str = ""


class NotificationError(Exception):
    """A notification did not get through; the message says why, and repeats no address."""


class Notifier:
    """``tells`` are told one after the other. ``oldest_seconds``: an age of which to tell (0: never)."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        max_task_age_seconds: float = 0,
        log: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._channels = channels
        self._max_task_age_seconds = max_task_age_seconds
        self._log = log
        self._now = now
        self._too_old = False
        self._oldest: float | None = None
        self._send, self._receive = anyio.create_memory_object_stream[Notification](MAX_QUEUED)

    def __call__(self, event: Event) -> None:
        """Take note of an event; it is told later."""
        for notification in self._notifications_for(event):
            try:
                self._send.send_nowait(notification)
            except anyio.WouldBlock:
                self._log(f"{notification.event}: not told, {MAX_QUEUED} others wait")

    async def run(self) -> None:
        """Tell what there is to tell, until cancelled."""
        async for notification in self._receive:
            for channel in self._channels:
                await self._send_to(channel, notification)

    async def finish(self) -> None:
        """Tell what is left at the end of a run, within bounded time."""
        with anyio.move_on_after(FINISH_TIMEOUT_SECONDS):
            self._send.close()
            await self.run()
        if remaining := self._receive.statistics().current_buffer_used:
            self._log(f"{remaining} were not told before the end")
        self._receive.close()

    async def _send_to(self, channel: Channel, notification: Notification) -> None:
        try:
            with anyio.fail_after(SEND_TIMEOUT_SECONDS, shield=True):  # the end of a run is no reason to break off
                await channel(notification)
        except TimeoutError:
            self._log(f"{notification.event}: not told within {SEND_TIMEOUT_SECONDS:.0f} s")
        except NotificationError as error:
            self._log(f"{notification.event}: not told: {error}")
        except Exception as error:  # noqa: BLE001 - nothing that a notification does may end a run
            self._log(f"{notification.event}: not told: unexpected {type(error).__name__}")

    def _notifications_for(self, event: Event) -> Iterator[Notification]:
        match event:
            case events.TaskParked(task=task, hold=hold):
                text = f"parked for {format_duration(hold.seconds)} after {hold.failures} failures: {hold.message}"
                yield self._build("parked", text, task.id, hold.message, hold.error)
            case events.TaskFailed(task=task, error=error):
                text = f"failed at Aluma, what it held is in the quarantine: {error}"
                yield self._build("quarantined", text, task.id, str(error), type(error).__name__)
            case events.ClaimingPaused(error=error):
                yield self._build(
                    "paused", f"nothing is claimed for now: {_told(error)}", "", str(error), type(error).__name__
                )
            case events.ClaimingResumed():
                yield self._build("resumed", "claiming again")
            case events.TasksListed(oldest_created_at=oldest):
                self._oldest = oldest
                yield from self._check_oldest_task()
            case events.ListingFailed():
                yield from self._check_oldest_task()

    def _check_oldest_task(self) -> Iterator[Notification]:
        """Tell once of an age, until it has fallen."""
        age = 0.0 if self._oldest is None else self._now() - self._oldest
        too_old = bool(self._max_task_age_seconds) and age > self._max_task_age_seconds
        if too_old and not self._too_old:
            yield self._build(
                "oldest-task-too-old", f"a task has waited for {format_duration(age)}; Aluma deletes what is overdue"
            )
        self._too_old = too_old

    def _build(self, kind: Kind, message: str, task: str = "", error: str = "", error_type: str = "") -> Notification:
        now = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        subject = f"task {task}: " if task else ""
        return Notification(
            kind, now, sanitize(subject + message, _MAX_TEXT_CHARS), task, sanitize(error, _MAX_TEXT_CHARS), error_type
        )


def _told(error: AlumaAsyncError) -> str:
    return f"{error}. {error.hint}" if error.hint else str(error)
