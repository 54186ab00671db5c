"""A ``FailureHandler`` with its collaborators, a source that records requests, and quarantine in memory."""

import anyio

from aluma_async import Backoff, MemoryJournal
from aluma_async.exceptions import (
    UnexportableTask,
)
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.admission import Admission
from aluma_async.pipeline.breaker import FailBreaker
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.destination_probe import DestinationProbe
from aluma_async.pipeline.failure import FailureHandler
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.backoff import RetryPolicy
from aluma_async.testing import MemoryDestination
from tests.support.world import system_time, unexportable_hold

TASK = ExportTask("t", project_id="p", created_at=7.0)
INVALID = ExportFile(0, 0, "", "a.txt", "content", "x", invalid_text=True)
FATAL = UnexportableTask("not valid Unicode")


class Requests:
    """A source that records its requests; each verb in ``errors`` raises an error."""

    def __init__(self):
        self.errors, self.sent = {}, []

    async def _send(self, verb, *values):
        self.sent.append((verb, *values))
        if verb in self.errors:
            raise self.errors[verb]

    async def start(self, task):
        await self._send("start")
        return Claim(task, ExportSpec((INVALID,), b"{}"), anyio.current_time())

    async def complete(self, task):
        await self._send("complete")

    async def cancel(self, task):
        await self._send("cancel")

    async def fail(self, task, message):
        await self._send("fail", message)

    async def state(self, task):
        return None


class Parts:
    """A handler with its collaborators; the task is claimed."""

    def __init__(self, *, quarantine=True):
        uniform = lambda low, high: low  # noqa: E731
        self.requests, self.events, self.journal = Requests(), [], MemoryJournal()
        self.claims = ClaimTracker(self.journal, system_time, 1800.0)
        emit = self.events.append
        tracking = ClaimTrackingSource(self.requests, self.claims)
        self.source = RetryingSource(tracking, RetryPolicy(1), uniform=uniform, on_event=emit)
        self.cooldown = Cooldown(
            Backoff(60, 3600, jitter=0),
            self.journal,
            park_seconds=9999,
            park_after=10,
            clock=system_time,
            uniform=uniform,
        )
        self.copies, self.destination = MemoryDestination(), MemoryDestination()
        self.quarantine = Quarantine(self.source, self.copies, on_event=emit) if quarantine else None
        if self.quarantine:
            tracking.has_copy = self.quarantine.has_copy
        self.admission = Admission(TaskTracker(), self.claims, anyio.Semaphore(1), canary_tasks=1, on_event=emit)
        self.breaker = FailBreaker(self.journal, self.destination)
        self.handler = FailureHandler(
            self.source,
            self.claims,
            self.cooldown,
            self.quarantine,
            LeaseDeadline(self.claims, 1800.0),
            self.admission,
            DestinationProbe(self.destination),
            self.breaker,
            uniform=uniform,
            on_event=emit,
        )

    async def handle(self, error, *, claimed=True, task=TASK, repeated=True):
        """Handle an error; return its result, the verbs of the requests, and the classes of the events.

        If the task can never be exported, an earlier attempt has found that, too (``repeated``).
        """
        if repeated and isinstance(error, UnexportableTask):
            await self.cooldown.restart(unexportable_hold(task.id, b"{}"))
        claim = await self.source.start(task) if claimed else None
        self.requests.sent.clear()
        self.events.clear()
        result = await self.handler.handle(task, claim, error)
        return result, [verb for verb, *_ in self.requests.sent], [type(event) for event in self.events]

    @property
    def stored(self):
        return self.copies.tasks.get(TASK.id)
