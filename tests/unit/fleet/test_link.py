"""``FleetLink``: heartbeats, batches, and what a node does when its store fails."""

import anyio
import pytest

from aluma_async.fleet.ports import ListingPage, RecordState
from aluma_async.models import ClaimState, ExportTask, HoldRecord
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import claim, make_link, pass_time, running
from tests.support.world import system_time


async def view(store, node_id):
    """Return what the store knows about a node."""
    return {node.node_id: node for node in (await store.inspect()).nodes}[node_id]


@virtual_time
async def test_link_reports_each_second():
    store = SimulatedFleetStore()
    async with running(make_link(store)):
        calls = store.calls
        await pass_time(60)
        assert 59 <= store.calls - calls <= 61
        assert (await view(store, "a")).is_present


class RecordingStore(SimulatedFleetStore):
    """Keeps all reports, with their time."""

    def __init__(self):
        super().__init__()
        self.reports = []

    async def sync(self, report):
        self.reports.append((anyio.current_time(), report))
        return await super().sync(report)


@virtual_time
async def test_link_reports_all_its_records_every_few_seconds():
    """So that a difference that was not noticed does not last."""
    store = RecordingStore()
    async with running(make_link(store)):
        await pass_time(60)
    times = [time for time, report in store.reports if report.full]
    assert 10 <= len(times) <= 14
    assert not any(report.predecessors for _, report in store.reports)


@virtual_time
async def test_link_reports_all_its_records_after_a_short_failure():
    """The store may have applied the report that failed, or not."""
    store = RecordingStore()
    link = make_link(store)
    async with running(link):
        await pass_time(2.5)
        store.unavailable = True
        await link.wait(link.begin_sync())
        store.unavailable = False
        before = len(store.reports)
        await pass_time(1)
    assert store.reports[before][1].full


@virtual_time
async def test_link_reports_nothing_before_the_journal_is_loaded():
    """The claims of the earlier process would otherwise seem to have ended."""
    store = RecordingStore()
    link = make_link(store)
    async with anyio.create_task_group() as group:
        group.start_soon(link.run)
        await pass_time(5)
        assert store.reports == []
        link.load([claim("t")])
        await pass_time(0)
        assert [entry.task_id for entry in store.reports[0][1].claims] == ["t"]
        group.cancel_scope.cancel()


@virtual_time
async def test_link_names_its_predecessors_until_the_store_knows_it():
    store = RecordingStore()
    store.unavailable = True
    async with running(make_link(store, "next", "a", "b")):
        await pass_time(3)
        store.unavailable = False
        await pass_time(3)
    named = [report.predecessors for _, report in store.reports]
    assert 4 <= named.count(("a", "b")) <= 6
    assert set(named) == {("a", "b"), ()}


@virtual_time
async def test_link_sends_changes_that_arrive_during_a_call_with_the_next():
    store = SimulatedFleetStore()
    store.request_delay = 0.01
    link = make_link(store)
    async with running(link):
        await pass_time(0)
        calls = store.calls

        async def start(number):
            await anyio.sleep(number / 10_000)
            link.records.put_claim(claim(f"t{number}", ClaimState.STARTING))
            await link.wait(link.begin_sync())

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(start, number)
        assert store.calls - calls <= 3
        assert (await view(store, "a")).claims == 100


@virtual_time
async def test_link_lets_no_caller_wait_while_the_store_is_unavailable():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        store.unavailable = True
        assert await link.wait(link.begin_sync()) is None
        started_at = anyio.current_time()
        for _ in range(100):
            assert await link.wait(link.begin_sync()) is None
        assert anyio.current_time() == started_at
        assert not link.is_connected


@virtual_time
async def test_link_releases_the_callers_of_the_next_report_when_one_fails():
    """They came while a call was not answered, and would otherwise wait for the probe of the next second."""
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        store.cut_off.add("a")
        link.begin_sync()
        await anyio.sleep(0.2)
        started_at = anyio.current_time()
        assert await link.wait(link.begin_sync()) is None
        assert anyio.current_time() - started_at <= 0.85
        assert await link.wait(link.begin_sync(), within=0.25) is None


@virtual_time
async def test_link_waits_no_longer_than_its_caller_allows():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        store.reply_delay = 0.9
        started_at = anyio.current_time()
        assert await link.wait(link.begin_sync(), within=0.25) is None
        assert anyio.current_time() - started_at == pytest.approx(0.25)


@virtual_time
async def test_link_probes_once_a_second_and_reports_all_when_connected_again():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        link.records.put_claim(claim("before"))
        await pass_time(1)
        store.unavailable = True
        await pass_time(10)
        link.records.put_claim(claim("meanwhile"))
        link.records.close("before")
        store.unavailable = False
        await pass_time(1)
        assert link.is_connected
        assert (await view(store, "a")).claims == 1
        other = make_link(store, "b")
        async with running(other):
            other.records.put_claim(claim("before", ClaimState.STARTING))
            other.records.put_claim(claim("meanwhile", ClaimState.STARTING))
            update = await other.wait(other.begin_sync())
            assert update.refused == ("meanwhile",)
            assert (other.pop_refused("meanwhile"), other.pop_refused("meanwhile")) == (True, False)
            assert not other.pop_refused("before")


@pytest.mark.parametrize("loss", ["empty", "old", "writes"])
@virtual_time
async def test_link_reports_all_again_when_the_store_has_lost_data(loss):
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        content = store.save()
        link.records.put_claim(claim("t"))
        link.records.put_hold(HoldRecord("h", system_time(), 100.0))
        await pass_time(1.5)
        if loss == "writes":
            store.lose_writes(content)
        else:
            store.restart(content if loss == "old" else None)
        await pass_time(1)
        assert (await view(store, "a")).claims == 1
        assert (await store.inspect()).holds == 1
        await pass_time(1)
        assert (await view(store, "a")).is_present, "a reset subscription is opened again"


@virtual_time
async def test_link_keeps_its_rows_only_while_it_is_connected():
    """Another node may have started a task that was published before a failure."""
    store = SimulatedFleetStore()
    link, lister = make_link(store), make_link(store, "b")
    tasks = tuple(ExportTask(name) for name in ("x", "y", "z"))
    async with running(link, lister):
        await store.publish_listing(ListingPage(node_id="b", rows=tasks, is_first=True, end="complete"))
        await link.wait(link.begin_sync(rows=1))
        assert len(link.rows) == 1
        assert link.records.state(link.rows[0].id) is RecordState.QUEUED
        store.cut_off.add("a")
        await link.wait(link.begin_sync())
        assert not link.rows
        store.cut_off.clear()
        await pass_time(1)
        update = await link.wait(link.begin_sync(rows=3))
        assert (list(link.rows), update.rows_left) == ([], 2), "earlier rows are for the other nodes"
        await store.publish_listing(ListingPage(node_id="b", rows=tasks, is_first=True, end="complete"))
        await link.wait(link.begin_sync(rows=3))
        assert set(link.rows) == set(tasks)


@virtual_time
async def test_link_takes_no_rows_of_a_store_that_has_lost_data():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        store.restart()
        page = ListingPage(node_id="b", rows=(ExportTask("x"),), is_first=True, end="complete")
        await store.publish_listing(page)
        await link.wait(link.begin_sync(rows=1))
        assert not link.rows
        await link.wait(link.begin_sync())
        await store.publish_listing(page)
        await link.wait(link.begin_sync(rows=1))
        assert [task.id for task in link.rows] == ["x"]


@virtual_time
async def test_link_reports_at_once_after_a_notice():
    store = SimulatedFleetStore()
    link = make_link(store)
    async with running(link):
        await pass_time(0.2)
        sequence = (await view(store, "a")).node_id and link.update.stored_sequence
        await store.publish_listing(ListingPage(node_id="b", is_first=True, end="complete"))
        await pass_time(0)
        assert link.update.stored_sequence == sequence + 1
        assert link.update.listing.number == 1


@virtual_time
async def test_link_receives_the_holds_of_other_nodes():
    store = SimulatedFleetStore()
    one, two = make_link(store), make_link(store, "b")
    async with running(one, two):
        one.records.put_hold(HoldRecord("h", system_time(), 100.0, failures=2))
        await pass_time(5)
        assert [hold.failures for hold in two.started_holds] == [2]
        two.records.put_hold(two.started_holds[0])
        await store.release_holds(["h"])
        await pass_time(1)
        assert (one.ended_holds, two.ended_holds) == (["h"], ["h"])


@virtual_time
async def test_link_that_ends_is_forgotten_unless_it_has_claims():
    """The claims that are left belong to the node that takes them over, or to its next process."""
    store = SimulatedFleetStore()
    async with running(make_link(store, "idle")):
        busy = make_link(store, "busy")
        async with running(busy):
            busy.records.put_claim(claim("t"))
    assert [(node.node_id, node.claims) for node in (await store.inspect()).nodes] == [("busy", 1)]


@virtual_time
async def test_link_continues_under_another_id_when_it_was_taken_over():
    store = SimulatedFleetStore()
    link, taker = make_link(store), make_link(store, "b")
    async with running(link, taker):
        link.records.put_claim(claim("t"))
        await pass_time(1)
        (node,) = (await taker.wait(taker.begin_sync())).nodes
        store.cut_off.add("a")
        (moved,) = await store.take_over("b", node)  # its subscription is still open
        assert moved.task_id == "t"
        store.cut_off.clear()
        await pass_time(2)
        assert link.node_id == "a-2"
        assert link.is_connected
        assert (await view(store, "a-2")).claims == 0, "the claim belongs to the other node"
        assert (await view(store, "a-2")).is_present
        link.records.put_claim(claim("new", ClaimState.STARTING))
        assert (await link.wait(link.begin_sync())).refused == ()
