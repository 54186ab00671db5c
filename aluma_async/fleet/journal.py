"""``FleetJournal``: wraps a ``Journal`` and reports each claim and hold to the fleet.

The wrapped journal remains the only durable state. Only the record before Start waits for the store, next to the
journal's own write and for a limited time.
"""

from collections.abc import Sequence
from typing import TypeAlias

from aluma_async.clock import loop_time
from aluma_async.exceptions import JournalError
from aluma_async.fleet.link import FleetLink
from aluma_async.models import BreakerRecord, ClaimRecord, ClaimState, HoldRecord
from aluma_async.ports import Journal

Record: TypeAlias = ClaimRecord | HoldRecord | BreakerRecord

START_SECONDS = 0.25
"""Seconds that a Start waits for the store at most."""
LOAD_SECONDS = 2.5
"""Seconds that the start of the exporter waits for the store at most."""


class FleetJournal:
    """Wraps ``journal`` for the node of ``link``."""

    def __init__(self, journal: Journal, link: FleetLink) -> None:
        self._journal = journal
        self._link = link
        self.flush = journal.flush

    async def load(self) -> Sequence[Record]:
        """Return all records, without the claims that another node has taken over.

        That node has counted their crashes and releases them. A claim whose files are committed is kept, because
        Complete is right in any case.
        """
        records = await self._journal.load()
        for record in records:
            if isinstance(record, HoldRecord):
                self._link.records.put_hold(record)
        self._link.load([record for record in records if isinstance(record, ClaimRecord)])
        await self._link.wait(self._link.begin_sync(), LOAD_SECONDS)
        taken = [record for record in records if isinstance(record, ClaimRecord) and self._is_taken(record)]
        for claim in taken:
            self._journal.delete(ClaimRecord, claim.task_id)
        return [record for record in records if record not in taken]

    async def write(self, *records: Record) -> None:
        """Store records durably; of a Start, wait also until the other nodes can know it."""
        started_at, is_start = loop_time(), False
        for record in records:
            self._report(record)
            is_start = is_start or (isinstance(record, ClaimRecord) and record.state is ClaimState.STARTING)
        report = self._link.begin_sync() if is_start else None
        await self._journal.write(*records)
        if report:
            await self._link.wait(report, max(0.0, started_at + START_SECONDS - loop_time()))

    def put(self, record: Record) -> None:
        """Store a record with the next write."""
        self._report(record)
        self._journal.put(record)

    def delete(self, kind: type[ClaimRecord] | type[HoldRecord] | type[BreakerRecord], task_id: str) -> None:
        """Delete a record with the next write."""
        if kind is ClaimRecord:
            self._link.records.close(task_id)
        elif kind is HoldRecord:
            self._link.records.end_hold(task_id)
        self._journal.delete(kind, task_id)

    async def pop_released(self) -> Sequence[str]:
        """Return, once, the tasks whose hold an operator or another node has ended."""
        ended, self._link.ended_holds = self._link.ended_holds, []
        try:
            return [*ended, *await self._journal.pop_released()]
        except JournalError:
            self._link.ended_holds = ended + self._link.ended_holds
            raise

    def _report(self, record: Record) -> None:
        if isinstance(record, ClaimRecord):
            self._link.records.put_claim(record)
        elif isinstance(record, HoldRecord):
            self._link.records.put_hold(record)

    def _is_taken(self, claim: ClaimRecord) -> bool:
        return claim.task_id in self._link.records.ownership.lost and claim.state is not ClaimState.COMMITTED
