"""``ClaimTracker``: which facts about a claim are durable, and before which request."""

import anyio
import pytest

from aluma_async import MemoryJournal, events
from aluma_async.exceptions import JournalError
from aluma_async.models import Claim, ClaimRecord, ClaimState, ExportSpec, ExportTask, Timestamp
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import SETTLE_RETRY_SECONDS, ClaimTracker
from aluma_async.policy.lease import LATE_START_SECONDS, LeaseStatus
from aluma_async.testing import SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import ImpossibleSource, World, claim_record, system_time

TASK = ExportTask("t")
LONG_AGO = Timestamp("simulated", -1e5, 1e9 - 1e5)


class WatchedJournal(MemoryJournal):
    """``durable`` has the state of each claim that the next process would load."""

    def __init__(self):
        super().__init__()
        self.durable = {}

    async def flush(self):
        await super().flush()
        claims = [record for record in await self.load() if isinstance(record, ClaimRecord)]
        self.durable = {claim.task_id: claim.state for claim in claims}


class Recorder:
    """A source that records the durable claims at the time of each request."""

    def __init__(self, journal):
        self.journal = journal
        self.seen = []

    async def start(self, task):
        self.seen.append(self.journal.durable)
        return Claim(task, ExportSpec(()), anyio.current_time())


class FullJournal(WatchedJournal):
    async def flush(self):
        raise JournalError("disk full")


@virtual_time
async def test_intent_to_claim_is_durable_before_start_is_sent():
    """After a crash the next process must know each task that Aluma may have given to this one."""
    journal = WatchedJournal()
    source = Recorder(journal)
    await ClaimTrackingSource(source, ClaimTracker(journal, system_time, 1800.0)).start(TASK)
    assert source.seen == [{"t": ClaimState.STARTING}]


@virtual_time
async def test_start_is_not_sent_when_its_intent_cannot_be_written():
    journal = FullJournal()
    source, claims = Recorder(journal), ClaimTracker(journal, system_time, 1800.0)
    with pytest.raises(JournalError):
        await ClaimTrackingSource(source, claims).start(TASK)
    assert source.seen == []
    assert claims.get("t") is None


@pytest.mark.parametrize("verb", ["complete", "fail"])
@virtual_time
async def test_safe_files_are_durable_before_complete_or_fail_is_sent(verb):
    """A crash after the request must not make the next process cancel the claim and export the task again."""
    seen = []

    class Source(ImpossibleSource if verb == "fail" else SimulatedSource):
        async def complete(self, task):
            seen.append(world.journal.durable[task.id])
            await super().complete(task)

        async def fail(self, task, message):
            seen.append(world.journal.durable[task.id])
            await super().fail(task, message)

    world = await World(1, profile="small", source=Source, journal=WatchedJournal()).find_unexportable()
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.failed) == ((1, 0) if verb == "complete" else (0, 1))
    assert seen == [ClaimState.COMMITTED if verb == "complete" else ClaimState.FAILING]


async def tracker(timeout=1800.0):
    claims = ClaimTracker(MemoryJournal(), system_time, timeout)
    await claims.record_intent("t")
    return claims


@virtual_time
async def test_claim_may_be_held_until_its_lease_ends():
    claims = await tracker()
    assert claims.lease_status("t") is LeaseStatus.VALID
    assert claims.lease_status("other") is LeaseStatus.EXPIRED
    assert claims.age("other") == float("inf")
    assert not claims.may_hold_claim("other")
    await anyio.sleep(1799)
    assert claims.may_hold_claim("t")
    assert claims.age("t") == 1799
    assert claims.seconds_left(claims.get("t")) == 1
    await anyio.sleep(1)
    assert not claims.may_hold_claim("t")
    assert claims.lease_status("t") is LeaseStatus.EXPIRED


@virtual_time
async def test_orphaned_claim_expires_with_its_lease():
    claims = await tracker()
    claims.mark_orphaned("t")
    assert claims.lease_status("t") is LeaseStatus.VALID
    await anyio.sleep(1800)
    assert claims.lease_status("t") is LeaseStatus.EXPIRED


@virtual_time
async def test_unconfirmed_start_keeps_a_closed_claim_open_for_its_window():
    """A late Start may create the claim again; its state is read before each further Cancel."""
    claims = await tracker()
    claims.mark_start_unconfirmed("t")
    assert claims.late_start_window(claims.get("t")) == LATE_START_SECONDS
    claims.mark_settlement_unconfirmed("t")
    claims.close("t")
    claim = claims.get("t")
    assert claims.is_settled(claim)
    assert not claim.settlement_unconfirmed
    assert claims.count_unsettled() == 0
    assert not claims.may_hold_claim("t")
    assert claims.lease_status("t") is LeaseStatus.UNCERTAIN
    assert claims.seconds_left(claim) == LATE_START_SECONDS + SETTLE_RETRY_SECONDS
    await anyio.sleep(LATE_START_SECONDS)
    claims.close("t", is_claimed=True)
    assert claims.get("t"), "the claim is still to be cancelled"
    await anyio.sleep(SETTLE_RETRY_SECONDS)
    assert claims.lease_status("t") is LeaseStatus.EXPIRED
    claims.close("t", is_claimed=True)
    assert claims.get("t") is None


@virtual_time
async def test_deleted_task_has_no_late_start():
    claims = await tracker()
    claims.mark_start_unconfirmed("t")
    claims.close("t", deleted=True)
    assert claims.get("t") is None


@virtual_time
async def test_load_makes_unconfirmed_what_may_have_been_sent():
    """Start may be in flight, Complete of a committed claim may have been sent; a Fail has not cost its state."""
    records = [claim_record(state.name, state) for state in ClaimState]
    claims = ClaimTracker(MemoryJournal(), system_time, 1800.0)
    interrupted = claims.load(records)
    assert {claim.task_id for claim in interrupted} == {"STARTING", "CLAIMED"}
    loaded = {claim.task_id: claim for claim in claims}
    assert loaded["STARTING"].start_unconfirmed_at == system_time()
    assert loaded["CLAIMED"].start_unconfirmed_at is None
    assert loaded["STARTING"].state is loaded["CLAIMED"].state is ClaimState.ORPHANED
    assert loaded["COMMITTED"].settlement_unconfirmed
    assert not loaded["ORPHANED"].settlement_unconfirmed
    assert loaded["FAILING"] == claim_record("FAILING", ClaimState.FAILING)


@virtual_time
async def test_claim_is_not_counted_after_it_is_closed_and_flushed():
    journal = MemoryJournal()
    claims = ClaimTracker(journal, system_time, 1800.0)
    await claims.record_intent("t")
    await claims.record_committed("t", 2, 20, ("folder",), "receipt")
    assert claims.destinations("t") == ("folder",)
    (record,) = await journal.load()
    assert (record.files, record.bytes, record.receipt) == (2, 20, "receipt")
    assert claims.count_unsettled() == 1
    claims.mark_unverified("t")
    assert claims.get("t") == claim_record("t", ClaimState.ORPHANED, files=2, bytes=20)
    claims.close("t")
    await journal.flush()
    assert await journal.load() == []
    assert claims.destinations("t") == ()
    assert claims.count_unsettled() == 0


@virtual_time
async def test_late_start_window_lasts_until_its_last_second():
    claims = await tracker()
    claims.mark_start_unconfirmed("t")
    await anyio.sleep(LATE_START_SECONDS - 0.5)
    claims.close("t")
    assert claims.get("t")
    await anyio.sleep(0.5)
    claims.close("t")
    assert claims.get("t") is None


def test_windows_are_those_of_the_documentation():
    assert (LATE_START_SECONDS, SETTLE_RETRY_SECONDS) == (900, 600)


@virtual_time
async def test_age_of_an_unknown_claim_is_infinite_and_it_may_not_be_held():
    claims = await tracker()
    assert claims.age("unknown") == float("inf")
    assert claims.destinations("unknown") == ()
    assert claims.mark_orphaned("unknown") is None
    claims.close("unknown")
    await claims.record_committed("unknown", 1, 1, ("folder",))
    assert claims.destinations("unknown") == ()
    assert [claim.task_id for claim in claims] == ["t"]


@virtual_time
async def test_lease_begins_when_start_was_sent_and_not_when_it_was_intended():
    """Start may have waited for a permit, and its response may have taken long."""
    journal = MemoryJournal()
    claims = ClaimTracker(journal, system_time, 1800.0)
    await claims.record_intent("t")
    await anyio.sleep(90)
    sent_at = system_time()
    await anyio.sleep(10)
    claims.record_claimed(Claim(TASK, ExportSpec(()), anyio.current_time() - 10))
    assert claims.get("t").sent_at == sent_at
    assert claims.age("t") == 10
    await journal.flush()
    assert [record.sent_at for record in await journal.load()] == [sent_at]


@virtual_time
async def test_claim_of_another_client_is_left_alone_and_reported():
    """Its settlement would be refused here, which would look as if it had been executed."""
    world = World(2, profile="small", exporter={"source_id": "https://b (client y)"})
    claim = claim_record("elsewhere", ClaimState.COMMITTED, source="https://a (client x)")
    expired = claim_record("expired", ClaimState.CLAIMED, source="https://a (client x)", sent_at=LONG_AGO)
    await world.journal.write(claim, expired)
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.deferred) == (2, 1)
    assert world.aluma.counts["complete"] == 2
    (deferred,) = world.events(events.SettlementDeferred)
    assert str(deferred.error) == "it is claimed at https://a (client x), and this run uses https://b (client y)"
    assert await world.journal.load() == [claim]


@pytest.mark.parametrize(("source_id", "source"), [("", "a"), ("a", ""), ("a", "a")])
@virtual_time
async def test_claim_is_settled_unless_another_client_has_it(source_id, source):
    """Journals of earlier versions do not say who has a claim."""
    claims = ClaimTracker(MemoryJournal(), system_time, 1800.0, source_id)
    claims.load([claim_record("t", ClaimState.COMMITTED, source=source)])
    assert claims.get("t")
    assert not claims.foreign


@virtual_time
async def test_claim_names_its_client():
    journal = MemoryJournal()
    await ClaimTracker(journal, system_time, 1800.0, "a").record_intent("t")
    assert [record.source for record in await journal.load()] == ["a"]
