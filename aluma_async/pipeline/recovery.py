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
from aluma_async.pipeline.claim_tracker import Ledger
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.settlement import last_word
from aluma_async.pipeline.task_tracker import Desk
from aluma_async.policy.backoff import exponential
from aluma_async.ports import Journal, OnEvent, TaskSource

COOLDOWN_SECONDS = 2.0
"""How long a task that was given back after a crash is left alone; it did nothing wrong."""
_LAST_SECONDS = 2.0  # the last word is said this little before nothing is worth saying any more
_CLOCK_STEP = 0.01  # a timer that comes a hair early must not make a busy loop of the wait
_WAIT_INITIAL = 5.0
_WAIT_MAX = 600.0
_UNHEARD_TRIES = 3  # a word that found no hearing is said again within a minute


class Recovery:
    """Works from the ledger. ``source`` repeats what may be repeated."""

    def __init__(
        self, source: TaskSource, ledger: Ledger, journal: Journal, desk: Desk, cooldown: Cooldown, *, on_event: OnEvent
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._journal = journal
        self._desk = desk
        self._cooldown = cooldown
        self._on_event = on_event
        self._due: dict[str, tuple[float, int]] = {}  # when, and how often it was tried
        self._speaking: set[str] = set()
        self._changed = anyio.Event()

    async def recall(self) -> None:
        """Take over what an earlier process left. Raises ``JournalError``."""
        records = await self._journal.recall()
        await self._cooldown.recall(record for record in records if isinstance(record, HoldRecord))
        broken = self._ledger.recall([record for record in records if isinstance(record, ClaimRecord)])
        for hold in await self._cooldown.crashed(claim.task_id for claim in broken):
            self._on_event(TaskParked(ExportTask(hold.task_id), hold))
        for claim in self._ledger:
            self._desk.take(claim.task_id)  # until it was spoken of once, nobody may claim it

    async def run(self) -> None:
        """Speak of each claim once, and then of those that are left, ever more rarely, until cancelled."""
        async with anyio.create_task_group() as group:
            for claim in self._ledger:
                if self._desk.has(claim.task_id) and claim.task_id not in self._due:
                    group.start_soon(self._speak, claim, 0, COOLDOWN_SECONDS)
            while True:
                now = loop_time() + _CLOCK_STEP
                for task_id, (at, tries) in list(self._due.items()):
                    if at <= now:
                        del self._due[task_id]
                        self._again(task_id, tries, group)
                self._changed = anyio.Event()
                with anyio.move_on_at(min((at for at, _ in self._due.values()), default=float("inf"))):
                    await self._changed.wait()

    def adopt(self, task_id: str, tries: int = 0) -> None:
        """Look after a task that was in hand, if there is anything left to say about it."""
        self._ledger.loosen(task_id)
        claim = self._ledger.get(task_id)
        if claim is None:
            return
        wait = exponential(_WAIT_INITIAL, _WAIT_MAX, tries + 1)
        worth = self._ledger.worth(claim)
        if worth < _LAST_SECONDS:
            self._ledger.settle(task_id, gone=True)
            return
        # What is heard after the grace settles it; what is not is tried a little longer.
        grace = self._ledger.grace(claim)
        wait = min(wait, grace + _LAST_SECONDS if grace > 0 else worth - _LAST_SECONDS / 2)
        self._due[task_id] = loop_time() + wait, tries
        self._changed.set()

    async def finish(self, within: float) -> None:
        """Try once more to say what is left to be said, before the run ends."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(within):
            async with anyio.create_task_group() as group:
                for claim in self._ledger:
                    group.start_soon(self._say, claim)

    def _again(self, task_id: str, tries: int, group: TaskGroup) -> None:
        claim = self._ledger.get(task_id)
        # Where somebody is at it already, it is adopted again when that is over.
        if claim and not (self._desk.at_work(task_id) or task_id in self._speaking):
            self._speaking.add(task_id)  # decided and noted in one step: nobody claims it while we cancel it
            group.start_soon(self._speak, claim, tries, 0.0)

    def speaks_of(self, task_id: str) -> bool:
        """Whether something is being said about a task, so that it must not be claimed now."""
        return task_id in self._speaking

    async def _speak(self, claim: ClaimRecord, tries: int, rest: float) -> None:
        """Say what is left of a claim; a task that is on the desk for it rests there for ``rest`` seconds."""
        settled = False
        try:
            heard = await self._say(claim)
            if not heard:
                tries = min(tries, _UNHEARD_TRIES)
            elif claim.step is ClaimState.ORPHANED:
                await anyio.sleep(rest)
            else:
                settled = True
        finally:
            if settled or claim.task_id not in self._speaking:
                self._desk.release(claim.task_id, settled=settled)
            self._speaking.discard(claim.task_id)
        self.adopt(claim.task_id, tries + 1)

    async def _say(self, claim: ClaimRecord) -> bool:
        """Say it; return whether it was heard: now or, where it is refused, before."""
        task = ExportTask(claim.task_id)
        try:
            event = await last_word(self._source, task, claim)
        except SourceError as error:
            if self._ledger.worth(claim) < _LAST_SECONDS:
                self._on_event(SettlementDeferred(task, error))
            return False
        if event:
            self._on_event(event)
        if claim.step is not ClaimState.ORPHANED:
            await self._cooldown.forget(task.id)
        return True
