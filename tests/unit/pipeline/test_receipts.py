"""After a restart, a claim is completed or failed only if its files are proven to be there; otherwise cancelled."""

import random
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import Exporter, MemoryJournal, events
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import ClaimRecord, ClaimState, Timestamp
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.tasks import chunks, make_claim


class PlainDestination:
    """A destination without receipts."""

    def __init__(self):
        self.files = MemoryDestination()

    async def probe(self):
        await self.files.probe()

    @asynccontextmanager
    async def open(self, claim):
        async with self.files.open(claim) as delivery:
            yield delivery
        delivery.receipt = ""


class BrokenVerification(MemoryDestination):
    """A destination whose ``verify`` has a defect."""

    def __init__(self, result):
        super().__init__()
        self._result = result

    async def verify(self, receipt):
        await super().verify(receipt)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


class Restart:
    """An Aluma with one task, claimed by a process that has ended, and the exporter that comes after it."""

    def __init__(self, destination, quarantine=None):
        self.aluma = simulated(1)
        (self.task_id,) = self.aluma.ids()
        self.destination = destination
        self.quarantine = quarantine
        self.journal = MemoryJournal()
        self.events = []

    def clock(self):
        return Timestamp("sim", anyio.current_time(), 1e9 + anyio.current_time())

    async def deliver(self, destination):
        """Deliver the task as the ended process did; return the receipt."""
        claim = make_claim(self.task_id, "a.csv", "b.csv")
        async with destination.open(claim) as delivery:
            for file in claim.spec.files:
                await delivery.save(file, chunks(b"data"))
        return delivery.receipt

    async def run(self, state, receipt, **fields):
        """Start the task, record its claim in this state, and run the next exporter; return its summary."""
        self.aluma.start(self.task_id)
        await self.journal.write(ClaimRecord(self.task_id, state, self.clock(), receipt=receipt, **fields))
        exporter = Exporter(
            SimulatedSource(self.aluma),
            self.destination,
            journal=self.journal,
            quarantine=self.quarantine,
            clock=self.clock,
            on_event=self.events.append,
            uniform=random.Random(0).uniform,
        )
        return await exporter.run_until_drained()

    @property
    def requests(self):
        """Number of Completes, Fails, Cancels and Starts, without the first Start."""
        counts = self.aluma.counts
        return counts["complete"], counts["fail"], counts["cancel"], counts["start"] - 1

    @property
    def missing_from(self):
        return [event.missing_from for event in self.events if isinstance(event, events.CommitUnverified)]


COMPLETED = (1, 0, 0, 0)
FAILED = (0, 1, 0, 0)
EXPORTED_AGAIN = (1, 0, 1, 1)


@virtual_time
async def test_committed_claim_is_completed_without_a_second_export():
    restart = Restart(MemoryDestination())
    receipt = await restart.deliver(restart.destination)
    summary = await restart.run(ClaimState.COMMITTED, receipt, files=2, bytes=20)
    assert restart.requests == COMPLETED
    assert (summary.exported, summary.files, summary.bytes) == (1, 2, 20)
    assert not restart.missing_from


@pytest.mark.parametrize("change", ["removed", "changed", "no receipt", "unknown receipt"])
@virtual_time
async def test_committed_claim_without_proof_is_cancelled_and_exported_again(change):
    restart = Restart(MemoryDestination())
    receipt = await restart.deliver(restart.destination)
    files = restart.destination.tasks[restart.task_id]
    match change:
        case "removed":
            files.popitem()
        case "changed":
            files.update(dict.fromkeys(files, b""))
        case "no receipt":
            receipt = ""
        case "unknown receipt":
            receipt = "x"
    summary = await restart.run(ClaimState.COMMITTED, receipt, files=2, bytes=20)
    assert restart.requests == EXPORTED_AGAIN
    assert summary.exported == 1
    assert restart.missing_from == ([] if change == "no receipt" else ["the destination"])
    expected = [data for _, _, data in restart.aluma.expected(restart.task_id)]
    assert sorted(restart.destination.contents(restart.task_id)) == sorted(expected)


@pytest.mark.parametrize("result", [RuntimeError("defect"), DestinationUnavailable("away"), None, "yes"])
@virtual_time
async def test_verification_that_does_not_return_true_proves_nothing(result):
    restart = Restart(BrokenVerification(result))
    receipt = await restart.deliver(restart.destination)
    await restart.run(ClaimState.COMMITTED, receipt)
    assert restart.requests == EXPORTED_AGAIN
    assert restart.missing_from == ["the destination"]


@virtual_time
async def test_destination_without_receipts_costs_an_identical_export():
    restart = Restart(PlainDestination())
    receipt = await restart.deliver(restart.destination)
    assert receipt == ""
    await restart.run(ClaimState.COMMITTED, receipt)
    assert restart.requests == EXPORTED_AGAIN


@virtual_time
async def test_probe_that_fails_at_the_start_completes_nothing():
    """The claim is released, so that the task is not blocked until its lease ends."""
    restart = Restart(MemoryDestination())
    receipt = await restart.deliver(restart.destination)
    restart.destination.unavailable = True
    with pytest.raises(DestinationUnavailable):
        await restart.run(ClaimState.COMMITTED, receipt)
    assert restart.requests == (0, 0, 1, 0)


@virtual_time
async def test_task_in_the_quarantine_is_failed():
    restart = Restart(MemoryDestination(), MemoryDestination())
    receipt = await restart.deliver(restart.quarantine)
    await restart.run(ClaimState.FAILING, receipt, message="reason")
    assert restart.requests == FAILED
    assert not restart.missing_from


@pytest.mark.parametrize("change", ["removed", "unavailable", "none", "no receipt"])
@virtual_time
async def test_task_whose_copy_is_not_certain_is_cancelled_and_not_failed(change):
    restart = Restart(MemoryDestination(), MemoryDestination())
    receipt = await restart.deliver(restart.quarantine)
    match change:
        case "removed":
            restart.quarantine.tasks.clear()
        case "unavailable":
            restart.quarantine.unavailable = True
        case "none":
            restart.quarantine = None
        case "no receipt":
            receipt = ""
    await restart.run(ClaimState.FAILING, receipt, message="reason")
    assert restart.requests == EXPORTED_AGAIN
    assert restart.missing_from == (["the quarantine"] if change in ("removed", "unavailable") else [])


@virtual_time
async def test_claim_of_a_probed_quarantine_is_failed_although_the_destination_is_unavailable():
    restart = Restart(MemoryDestination(), MemoryDestination())
    receipt = await restart.deliver(restart.quarantine)
    restart.destination.unavailable = True
    with pytest.raises(DestinationUnavailable):
        await restart.run(ClaimState.FAILING, receipt, message="reason")
    assert restart.requests == FAILED


@virtual_time
async def test_unconfirmed_complete_of_an_earlier_process_is_not_repeated_without_proof():
    """If it was executed, Cancel is refused, and the task is not listed any more."""
    restart = Restart(MemoryDestination())
    receipt = await restart.deliver(restart.destination)
    restart.destination.tasks.clear()
    restart.aluma.start(restart.task_id)
    restart.aluma.complete(restart.task_id)
    await restart.journal.write(
        ClaimRecord(
            restart.task_id, ClaimState.COMMITTED, restart.clock(), settlement_unconfirmed=True, receipt=receipt
        )
    )
    exporter = Exporter(
        SimulatedSource(restart.aluma),
        restart.destination,
        journal=restart.journal,
        clock=restart.clock,
        on_event=restart.events.append,
    )
    summary = await exporter.run_until_drained()
    assert summary.exported == 0
    assert not await restart.journal.load()


@virtual_time
async def test_receipts_of_a_run_are_stored_with_its_claims():
    """The next process finds what the destination and the quarantine have issued."""
    written = []

    class Recording(MemoryJournal):
        async def write(self, *records):
            written.extend(records)
            await super().write(*records)

    restart = Restart(MemoryDestination())
    restart.journal = Recording()
    await Exporter(
        SimulatedSource(restart.aluma), restart.destination, journal=restart.journal, clock=restart.clock
    ).run_until_drained()
    (committed,) = (record for record in written if getattr(record, "state", None) is ClaimState.COMMITTED)
    assert await restart.destination.verify(committed.receipt)
