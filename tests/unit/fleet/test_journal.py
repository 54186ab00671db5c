"""``FleetJournal``: what reaches the other nodes, and how long a Start waits for the store."""

import anyio
import pytest

from aluma_async import MemoryJournal
from aluma_async.exceptions import JournalError
from aluma_async.fleet.journal import FleetJournal
from aluma_async.fleet.ports import RecordState
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import claim, make_link, pass_time, running
from tests.support.world import system_time


class SlowJournal(MemoryJournal):
    """A journal whose writes take a while, or fail."""

    seconds, error = 0.1, None

    async def flush(self):
        await anyio.sleep(self.seconds)
        if self.error:
            raise self.error
        await super().flush()


async def seconds_of(awaitable):
    started_at = anyio.current_time()
    await awaitable
    return anyio.current_time() - started_at


@virtual_time
async def test_journal_writes_a_start_next_to_the_report():
    store = SimulatedFleetStore()
    store.request_delay = 0.1
    link = make_link(store)
    async with running(link):
        journal = FleetJournal(SlowJournal(), link)
        assert await seconds_of(journal.write(claim("t", ClaimState.STARTING))) == pytest.approx(0.1, abs=0.01)
        assert (await store.inspect()).nodes[0].claims == 1


@virtual_time
async def test_journal_waits_a_quarter_of_a_second_for_the_store_at_most():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        journal = FleetJournal(SlowJournal(), link)
        store.reply_delay = 0.9
        assert await seconds_of(journal.write(claim("t", ClaimState.STARTING))) == pytest.approx(0.25)
        store.unavailable = True
        await pass_time(2)
        assert await seconds_of(journal.write(claim("u", ClaimState.STARTING))) == pytest.approx(0.1)


@virtual_time
async def test_journal_waits_for_the_store_only_before_a_start():
    store = SimulatedFleetStore()
    store.reply_delay = 0.9
    link = make_link(store)
    async with running(link):
        journal = FleetJournal(SlowJournal(), link)
        records = [claim("t", state) for state in ClaimState if state is not ClaimState.STARTING]
        for record in [*records, HoldRecord("h", system_time(), 60.0)]:
            assert await seconds_of(journal.write(record)) == pytest.approx(0.1)


@virtual_time
async def test_journal_raises_the_error_of_the_journal():
    link = make_link(SimulatedFleetStore())
    async with running(link):
        inner = SlowJournal()
        inner.error = JournalError("full")
        with pytest.raises(JournalError):
            await FleetJournal(inner, link).write(claim("t", ClaimState.STARTING))


@virtual_time
async def test_journal_reports_every_change_to_the_other_nodes():
    store = SimulatedFleetStore()
    link, other = make_link(store), make_link(store, "b")
    async with running(link, other):
        journal = FleetJournal(MemoryJournal(), link)
        journal.put(claim("t"))
        journal.put(HoldRecord("h", system_time(), 60.0, failures=1))
        await pass_time(2)
        assert [hold.task_id for hold in other.started_holds] == ["h"]
        journal.delete(ClaimRecord, "t")
        journal.delete(HoldRecord, "h")
        await pass_time(2)
        assert (await store.inspect()).nodes[0].claims == 0
        assert other.ended_holds == ["h"]
        assert link.records.state("t") is None


@virtual_time
async def test_journal_returns_releases_of_the_operator_and_of_other_nodes():
    store = SimulatedFleetStore()
    link, inner = make_link(store), MemoryJournal()
    async with running(link):
        journal = FleetJournal(inner, link)
        inner.release("own")
        await store.release_holds(["other"])
        await pass_time(1)
        assert sorted(await journal.pop_released()) == ["other", "own"]
        assert await journal.pop_released() == []


class FailingOnce(MemoryJournal):
    """A journal that cannot be read at first."""

    error = JournalError("busy")

    async def pop_released(self):
        error, self.error = self.error, None
        if error:
            raise error
        return await super().pop_released()


@virtual_time
async def test_journal_keeps_the_releases_of_other_nodes_when_it_cannot_be_read():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        journal = FleetJournal(FailingOnce(), link)
        await store.release_holds(["other"])
        await pass_time(1)
        with pytest.raises(JournalError):
            await journal.pop_released()
        assert await journal.pop_released() == ["other"]


async def earlier_process(*records):
    """Return the journal of a process that has ended."""
    journal = MemoryJournal()
    await journal.write(*records)
    return journal


async def load(store, journal, link):
    """Load the journal of a node that starts; return the records."""
    async with anyio.create_task_group() as group:
        group.start_soon(link.run)
        records = await FleetJournal(journal, link).load()
        group.cancel_scope.cancel()
    return records


@virtual_time
async def test_journal_load_reports_the_claims_of_the_earlier_process():
    store = SimulatedFleetStore()
    hold = HoldRecord("h", system_time(), 60.0)
    journal = await earlier_process(claim("t"), hold)
    records = await load(store, journal, make_link(store, "next", "a"))
    assert records == [claim("t"), hold]
    (node,) = (await store.inspect()).nodes
    assert (node.node_id, node.claims, (await store.inspect()).holds) == ("next", 1, 1)


@pytest.mark.parametrize("released", [False, True])
@virtual_time
async def test_journal_load_drops_claims_that_another_node_has_taken_over(released):
    """So that none is released, and no crash counted, twice. Files that are committed are completed in any case."""
    store = SimulatedFleetStore()
    first, taker = make_link(store), make_link(store, "b")
    journal = await earlier_process(claim("t"), claim("c", ClaimState.COMMITTED))
    async with running(taker):
        async with running(first, claims=await journal.load()):
            await pass_time(1)
        (node,) = (await taker.wait(taker.begin_sync())).nodes
        assert len(await store.take_over("b", node)) == 2
        if released:
            taker.records.drop(["t", "c"])
            await taker.wait(taker.begin_sync())
        records = await load(store, journal, make_link(store, "next", "a"))
    assert [record.task_id for record in records] == ["c"]
    await journal.flush()
    assert [record.task_id for record in await journal.load()] == ["c"]


@virtual_time
async def test_journal_load_returns_all_claims_when_the_store_is_unavailable():
    store = SimulatedFleetStore()
    store.unavailable = True
    journal = await earlier_process(claim("t"))
    assert await load(store, journal, make_link(store)) == [claim("t")]
    store.unavailable = False
    store.request_delay = 30.0
    started_at = anyio.current_time()
    assert await load(store, journal, make_link(store, "c")) != []
    assert anyio.current_time() - started_at < 3


@virtual_time
async def test_journal_load_finds_claims_that_only_the_store_knows():
    """The journal was lost with its disk; the store still knows which claims to release."""
    store = SimulatedFleetStore()
    first = make_link(store)
    async with running(first):
        first.records.put_claim(claim("t"))
    link, moved = make_link(store, "next", "a"), []
    link.listeners.append(lambda update, _: moved.extend(update.moved))
    assert await load(store, MemoryJournal(), link) == []
    assert {(entry.task_id, entry.state) for entry in moved} == {("t", RecordState.CLAIMED)}
