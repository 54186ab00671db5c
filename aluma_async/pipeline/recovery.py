"""``Recovery``: says the last word about claims that nobody works on.

Those of a process that crashed, those whose Complete, Fail or Cancel found no hearing, and those that a Start
may still make without our seeing it. It runs beside the workers and holds nothing up but the tasks it speaks of.
"""

import anyio
from anyio.abc import TaskGroup

from aluma_async.clock import loop_time
from aluma_async.events import SettlementDeferred, TaskParked
from aluma_async.exceptions import SourceError
from aluma_async.models import ClaimRecord, ClaimState, ExportTask, HoldRecord
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.settlement import settle_claim
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.backoff import exponential
from aluma_async.ports import Journal, OnEvent, TaskSource

RELEASED_TASK_DELAY_SECONDS = 2.0
"""How long a task that was given back after a crash is left alone; it did nothing wrong."""
_EXPIRY_MARGIN_SECONDS = 2.0  # the last word is said this little before nothing is worth saying any more
_CLOCK_STEP = 0.01  # a timer that comes a hair early must not make a busy loop of the wait
_WAIT_INITIAL = 5.0
_WAIT_MAX = 600.0
_FAST_RETRIES = 3  # a word that found no hearing is said again within a minute


class Recovery:
    """Works from the ledger. ``source`` repeats what may be repeated."""

    def __init__(
        self,
        source: TaskSource,
        claims: ClaimTracker,
        journal: Journal,
        tracker: TaskTracker,
        cooldown: Cooldown,
        *,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._claims = claims
        self._journal = journal
        self._tracker = tracker
        self._cooldown = cooldown
        self._on_event = on_event
        self._due: dict[str, tuple[float, int]] = {}  # when, and how often it was tried
        self._settling: set[str] = set()
        self._wakeup = anyio.Event()

    async def load(self) -> None:
        """Take over what an earlier process left. Raises ``JournalError``."""
        records = await self._journal.load()
        await self._cooldown.load(record for record in records if isinstance(record, HoldRecord))
        interrupted = self._claims.load([record for record in records if isinstance(record, ClaimRecord)])
        for hold in await self._cooldown.record_crashes(claim.task_id for claim in interrupted):
            self._on_event(TaskParked(ExportTask(hold.task_id), hold))
        for claim in self._claims:
            self._tracker.add(claim.task_id)  # until it was spoken of once, nobody may claim it

    async def run(self) -> None:
        """Speak of each claim once, and then of those that are left, ever more rarely, until cancelled."""
        async with anyio.create_task_group() as group:
            for claim in self._claims:
                if self._tracker.blocks(claim.task_id) and claim.task_id not in self._due:
                    group.start_soon(self._settle_and_reschedule, claim, 0, RELEASED_TASK_DELAY_SECONDS)
            while True:
                now = loop_time() + _CLOCK_STEP
                for task_id, (at, tries) in list(self._due.items()):
                    if at <= now:
                        del self._due[task_id]
                        self._start_if_idle(task_id, tries, group)
                self._wakeup = anyio.Event()
                with anyio.move_on_at(min((at for at, _ in self._due.values()), default=float("inf"))):
                    await self._wakeup.wait()

    def schedule(self, task_id: str, tries: int = 0) -> None:
        """Look after a task that was in hand, if there is anything left to say about it."""
        self._claims.mark_orphaned(task_id)
        claim = self._claims.get(task_id)
        if claim is None:
            return
        wait = exponential(_WAIT_INITIAL, _WAIT_MAX, tries + 1)
        seconds_left = self._claims.seconds_left(claim)
        if seconds_left < _EXPIRY_MARGIN_SECONDS:
            self._claims.close(task_id, deleted=True)
            return
        # What is heard after the grace settles it; what is not is tried a little longer.
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
        """Try once more to say what is left to be said, before the run ends."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(within):
            async with anyio.create_task_group() as group:
                for claim in self._claims:
                    group.start_soon(self._try_settle, claim)

    def _start_if_idle(self, task_id: str, tries: int, group: TaskGroup) -> None:
        claim = self._claims.get(task_id)
        # Where somebody is at it already, it is adopted again when that is over.
        if claim and not (self._tracker.is_started(task_id) or task_id in self._settling):
            self._settling.add(task_id)  # decided and noted in one step: nobody claims it while we cancel it
            group.start_soon(self._settle_and_reschedule, claim, tries, 0.0)

    def is_settling(self, task_id: str) -> bool:
        """Whether something is being said about a task, so that it must not be claimed now."""
        return task_id in self._settling

    async def _settle_and_reschedule(self, claim: ClaimRecord, tries: int, rest: float) -> None:
        """Say what is left of a claim; a task that is on the desk for it rests there for ``rest`` seconds."""
        done = False
        try:
            heard = await self._try_settle(claim)
            if not heard:
                tries = min(tries, _FAST_RETRIES)
            elif claim.step is ClaimState.ORPHANED:
                await anyio.sleep(rest)
            else:
                done = True
        finally:
            if done or claim.task_id not in self._settling:
                self._tracker.remove(claim.task_id, done=done)
            self._settling.discard(claim.task_id)
        self.schedule(claim.task_id, tries + 1)

    async def _try_settle(self, claim: ClaimRecord) -> bool:
        """Say it; return whether it was heard: now or, where it is refused, before."""
        task = ExportTask(claim.task_id)
        try:
            event = await settle_claim(self._source, task, claim)
        except SourceError as error:
            if self._claims.seconds_left(claim) < _EXPIRY_MARGIN_SECONDS:
                self._on_event(SettlementDeferred(task, error))
            return False
        if event:
            self._on_event(event)
        if claim.step is not ClaimState.ORPHANED:
            await self._cooldown.clear_task(task.id)
        return True
