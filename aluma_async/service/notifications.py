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
from aluma_async.service.formatting import printable, span

Kind: TypeAlias = Literal["parked", "quarantined", "paused", "resumed", "oldest-task-too-old"]
KINDS: tuple[Kind, ...] = ("parked", "quarantined", "paused", "resumed", "oldest-task-too-old")

QUEUE = 100
"""Notifications that wait; what comes beyond is dropped, and that is logged."""
TELL_SECONDS = 10.0
"""How long a command or webhook may take for one of them."""
FINISH_SECONDS = 10.0
"""How long what waits may still take when the run is over."""
_LONGEST = 500

Tell: TypeAlias = Callable[["Notification"], Awaitable[None]]
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


class NotTold(Exception):
    """A notification did not get through; the message says why, and repeats no address."""


class Notifier:
    """``tells`` are told one after the other. ``oldest_seconds``: an age of which to tell (0: never)."""

    def __init__(
        self,
        tells: Sequence[Tell],
        *,
        oldest_seconds: float = 0,
        log: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tells = tells
        self._oldest_seconds = oldest_seconds
        self._log = log
        self._wall = wall
        self._too_old = False
        self._oldest: float | None = None
        self._send, self._receive = anyio.create_memory_object_stream[Notification](QUEUE)

    def __call__(self, event: Event) -> None:
        """Take note of an event; it is told later."""
        for notification in self._notable(event):
            try:
                self._send.send_nowait(notification)
            except anyio.WouldBlock:
                self._log(f"{notification.event}: not told, {QUEUE} others wait")

    async def run(self) -> None:
        """Tell what there is to tell, until cancelled."""
        async for notification in self._receive:
            for tell in self._tells:
                await self._tell(tell, notification)

    async def finish(self) -> None:
        """Tell what is left at the end of a run, within bounded time."""
        with anyio.move_on_after(FINISH_SECONDS):
            self._send.close()
            await self.run()
        if left := self._receive.statistics().current_buffer_used:
            self._log(f"{left} were not told before the end")
        self._receive.close()

    async def _tell(self, tell: Tell, notification: Notification) -> None:
        try:
            with anyio.fail_after(TELL_SECONDS, shield=True):  # the end of a run is no reason to break off
                await tell(notification)
        except TimeoutError:
            self._log(f"{notification.event}: not told within {TELL_SECONDS:.0f} s")
        except NotTold as error:
            self._log(f"{notification.event}: not told: {error}")
        except Exception as error:  # noqa: BLE001 - nothing that a notification does may end a run
            self._log(f"{notification.event}: not told: unexpected {type(error).__name__}")

    def _notable(self, event: Event) -> Iterator[Notification]:
        match event:
            case events.TaskParked(task=task, hold=hold):
                why = f"parked for {span(hold.seconds)} after {hold.failures} failures: {hold.message}"
                yield self._made("parked", why, task.id, hold.message, hold.error)
            case events.TaskFailed(task=task, error=error):
                why = f"failed at Aluma, what it held is in the quarantine: {error}"
                yield self._made("quarantined", why, task.id, str(error), type(error).__name__)
            case events.ClaimingPaused(error=error):
                yield self._made(
                    "paused", f"nothing is claimed for now: {_told(error)}", "", str(error), type(error).__name__
                )
            case events.ClaimingResumed():
                yield self._made("resumed", "claiming again")
            case events.TasksListed(oldest_created_at=oldest):
                self._oldest = oldest
                yield from self._age()
            case events.ListingFailed():
                yield from self._age()

    def _age(self) -> Iterator[Notification]:
        """Tell once of an age, until it has fallen."""
        age = 0.0 if self._oldest is None else self._wall() - self._oldest
        too_old = bool(self._oldest_seconds) and age > self._oldest_seconds
        if too_old and not self._too_old:
            yield self._made("oldest-task-too-old", f"a task has waited for {span(age)}; Aluma deletes what is overdue")
        self._too_old = too_old

    def _made(self, kind: Kind, message: str, task: str = "", error: str = "", error_type: str = "") -> Notification:
        now = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        subject = f"task {task}: " if task else ""
        return Notification(
            kind, now, printable(subject + message, _LONGEST), task, printable(error, _LONGEST), error_type
        )


def _told(error: AlumaAsyncError) -> str:
    return f"{error}. {error.hint}" if error.hint else str(error)
