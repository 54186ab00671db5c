"""``Recovery``: settles the claims that no worker owns.

These are claims left by a crashed process, claims whose settlement was not confirmed, and claims that a late Start
may still create. It runs next to the workers and blocks only the tasks that it is settling. A claim of an earlier
process is completed or failed only if its files are proven to be there; otherwise it is cancelled, which costs an
identical export.
"""

import anyio
from anyio.abc import TaskGroup

from aluma_async.clock import loop_time
from aluma_async.events import CommitUnverified, Event, SettlementDeferred, TaskParked, TaskReleased
from aluma_async.exceptions import SourceError
from aluma_async.models import BreakerRecord, ClaimRecord, ClaimState, ExportTask, HoldRecord
from aluma_async.pipeline.breaker import FailBreaker
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.settlement import settle_claim
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.backoff import exponential
from aluma_async.ports import Destination, Journal, OnEvent, TaskSource, VerifyingDestination

RELEASED_TASK_DELAY_SECONDS = 2.0
"""Seconds before a task that was released after a crash is exported again; the crash is not counted as its failure."""
_EXPIRY_MARGIN_SECONDS = 2.0  # the last attempt is made this long before the claim ends at Aluma
_CLOCK_STEP = 0.01  # so that a timer that fires slightly early does not cause a busy loop
_WAIT_INITIAL = 5.0
_WAIT_MAX = 600.0
_FAST_RETRIES = 3  # limits the backoff of an unconfirmed settlement, which is retried within a minute


class Recovery:
    """Settles orphaned claims of ``claims`` through ``source``, which retries each request a few times."""

    def __init__(
        self,
        source: TaskSource,
        claims: ClaimTracker,
        journal: Journal,
        tracker: TaskTracker,
        cooldown: Cooldown,
        breaker: FailBreaker,
        *,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._claims = claims
        self._journal = journal
        self._tracker = tracker
        self._cooldown = cooldown
        self._breaker = breaker
        self._on_event = on_event
        self._due: dict[str, tuple[float, int]] = {}  # time of the next attempt, and number of attempts so far
        self._wakeup = anyio.Event()
        self._taken: dict[str, tuple[ClaimRecord, bool]] = {}

    async def load(self) -> None:
        """Take over the records of an earlier process. Raises ``JournalError``.

        Tasks that were in progress when it ended count one more crash each.
        """
        records = await self._journal.load()
        await self._cooldown.load(record for record in records if isinstance(record, HoldRecord))
        self._breaker.load(record for record in records if isinstance(record, BreakerRecord))
        interrupted = self._claims.load([record for record in records if isinstance(record, ClaimRecord)])
        for claim in self._claims.foreign.values():
            self._on_event(SettlementDeferred(ExportTask(claim.task_id), self._claims.foreign_error(claim)))
        await self._record_crashes([claim.task_id for claim in interrupted])
        for claim in self._claims:
            self._tracker.add(claim.task_id)  # so that no worker claims it before the first attempt to settle it

    async def verify(self, destination: Destination | None, quarantine: Quarantine | None) -> None:
        """Decide about the claims whose files an earlier process committed: without proof, they are cancelled.

        Args:
            destination: The destination, if its probe has succeeded.
            quarantine: The copies of failed tasks, if they are kept.
        """
        async with anyio.create_task_group() as group:
            for claim in self._claims:
                if claim.state is ClaimState.COMMITTED:
                    group.start_soon(self._verify_claim, claim, destination)
                elif claim.state is ClaimState.FAILING:
                    group.start_soon(self._verify_claim, claim, quarantine)

    async def _verify_claim(self, claim: ClaimRecord, place: Destination | Quarantine | None) -> None:
        proven: object = False
        if claim.receipt and not self._claims.is_of_another_boot(claim):  # otherwise its age is not certain
            try:
                if isinstance(place, Quarantine):
                    proven = await place.holds(claim.task_id, claim.receipt)
                elif isinstance(place, VerifyingDestination):
                    proven = await place.verify(claim.receipt)
            except BaseException as error:
                if not plugin_defect(error):  # also after a defect of a plug-in, files without proof count as lost
                    raise
        if proven is True:
            return
        if claim.receipt and place:
            name = "quarantine" if claim.state is ClaimState.FAILING else "destination"
            self._on_event(CommitUnverified(ExportTask(claim.task_id), f"the {name}"))
        self._claims.mark_unverified(claim.task_id)

    async def run(self) -> None:
        """Try to settle each claim at once, then the remaining ones with exponential backoff, until cancelled."""
        async with anyio.create_task_group() as group:
            for claim in self._claims:
                if self._tracker.blocks(claim.task_id) and claim.task_id not in self._due:
                    group.start_soon(self._settle_and_reschedule, claim, 0, RELEASED_TASK_DELAY_SECONDS)
            while True:
                await self._take_over(group)
                now = loop_time() + _CLOCK_STEP
                for task_id, (due, tries) in list(self._due.items()):
                    if due <= now:
                        del self._due[task_id]
                        self._start_if_idle(task_id, tries, group)
                if self._taken:
                    continue
                self._wakeup = anyio.Event()
                with anyio.move_on_at(min((due for due, _ in self._due.values()), default=float("inf"))):
                    await self._wakeup.wait()

    def add_orphaned(self, claim: ClaimRecord, *, is_interrupted: bool) -> None:
        """Release a claim of another exporter that has ended, as soon as ``run`` does.

        ``is_interrupted``: its task was in progress, so that it counts one more crash.
        """
        self._taken[claim.task_id] = claim, is_interrupted
        self._wakeup.set()

    async def _take_over(self, group: TaskGroup) -> None:
        taken, self._taken = self._taken, {}
        added = [claim for claim, _ in taken.values() if self._claims.add_orphaned(claim)]
        idle = [claim for claim in added if claim.task_id not in self._tracker]
        for claim in idle:
            self._tracker.add(claim.task_id)  # so that no worker claims it before the first attempt to settle it
        await self._record_crashes([claim.task_id for claim in added if taken[claim.task_id][1]])
        for claim in idle:
            group.start_soon(self._settle_and_reschedule, claim, 0, RELEASED_TASK_DELAY_SECONDS)
        for claim in added:
            if claim not in idle:  # when its worker has ended
                self.schedule(claim.task_id)

    async def _record_crashes(self, task_ids: list[str]) -> None:
        """Count one more crash of each task."""
        if task_ids:
            for hold in await self._cooldown.record_crashes(task_ids):
                self._on_event(TaskParked(ExportTask(hold.task_id), hold))

    def schedule(self, task_id: str, tries: int = 0) -> None:
        """Schedule the next attempt to settle the claim of a task, if it is still open."""
        claim = self._claims.mark_orphaned(task_id)
        if claim is None:
            return
        wait = exponential(_WAIT_INITIAL, _WAIT_MAX, tries + 1)
        seconds_left = self._claims.seconds_left(claim)
        if seconds_left < _EXPIRY_MARGIN_SECONDS:
            self._claims.close(task_id, deleted=True)
            return
        # A Cancel that is answered after the late-start window closes the claim, so one attempt is made right after it.
        late_start_window = self._claims.late_start_window(claim)
        wait = min(
            wait,
            late_start_window + _EXPIRY_MARGIN_SECONDS
            if late_start_window > 0
            else seconds_left - _EXPIRY_MARGIN_SECONDS / 2,
        )
        self._due[task_id] = loop_time() + wait, tries
        self._wakeup.set()

    async def settle_remaining(self, within: float) -> None:
        """Try once more to settle all open claims before the run ends, for at most ``within`` seconds."""
        errors: dict[str, SourceError] = {}
        with anyio.CancelScope(shield=True), anyio.move_on_after(within):
            async with anyio.create_task_group() as group:
                for claim in self._claims:
                    group.start_soon(self._settle_at_end, claim, errors)
        for claim in self._claims:
            if not self._claims.is_settled(claim):
                no_response = SourceError(f"task {claim.task_id}: no response in {within:.0f} s")
                error = errors.get(claim.task_id, no_response)
                self._on_event(SettlementDeferred(ExportTask(claim.task_id), error))

    async def _settle_at_end(self, claim: ClaimRecord, errors: dict[str, SourceError]) -> None:
        outcome = await self._try_settle(claim)
        if isinstance(outcome, SourceError):
            errors[claim.task_id] = outcome

    def _start_if_idle(self, task_id: str, tries: int, group: TaskGroup) -> None:
        claim = self._claims.get(task_id)
        # If a worker or a running attempt owns the claim, it schedules the claim again at its end.
        if claim and self._tracker.mark_settling(task_id):
            group.start_soon(self._settle_and_reschedule, claim, tries, 0.0)

    async def _settle_and_reschedule(self, claim: ClaimRecord, tries: int, delay: float) -> None:
        """Try to settle a claim and schedule the next attempt; block a released task for ``delay`` seconds more."""
        done = False
        try:
            event = await self._try_settle(claim)
            if isinstance(event, SourceError):
                tries = min(tries, _FAST_RETRIES)
                if self._claims.seconds_left(claim) < _EXPIRY_MARGIN_SECONDS:
                    self._on_event(SettlementDeferred(ExportTask(claim.task_id), event))
            elif claim.state is ClaimState.ORPHANED or isinstance(event, TaskReleased):
                await anyio.sleep(delay)
            else:
                done = True
        finally:
            if done or not self._tracker.is_settling(claim.task_id):
                self._tracker.remove(claim.task_id, done=done)
            self._tracker.clear_settling(claim.task_id)
        self.schedule(claim.task_id, tries + 1)

    async def _try_settle(self, claim: ClaimRecord) -> Event | SourceError | None:
        """Try to settle a claim; return the event of the outcome, None if it had ended, or the error if it is open."""
        task = ExportTask(claim.task_id)
        try:
            event = await settle_claim(self._source, self._claims, task)
        except SourceError as error:
            return error
        if isinstance(event, TaskReleased):
            self._breaker.give_back(task.id)  # the task was not failed
            if claim.state is ClaimState.FAILING:
                self._on_event(CommitUnverified(task, "the quarantine"))
        if event:
            self._on_event(event)
        if claim.state is not ClaimState.ORPHANED:
            await self._cooldown.clear_task(task.id)
        return event
