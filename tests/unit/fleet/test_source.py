"""``FleetSource``: one listing for all nodes, each task for one node, and no settlement of another node's claim."""

from collections import Counter

import anyio
import pytest

from aluma_async.exceptions import ClaimConflict, SourceError, Unavailable
from aluma_async.fleet.ports import MAX_ROWS, ListingPage
from aluma_async.fleet.source import OTHERS_SECONDS, FleetSource, SourceHooks
from aluma_async.models import Claim, ClaimState, ExportSpec, ExportTask, HoldRecord
from aluma_async.policy.rendezvous import owned_slots, slot_of
from aluma_async.ports import BEFORE_SENDING
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import Suspendable, claim, make_link, pass_time, running
from tests.support.world import system_time


class Aluma:
    """A source that lists the tasks ``pending``, and records the requests."""

    def __init__(self, *pending, seconds=0.0):
        self.pending, self.seconds, self.listings, self.sent = list(pending), seconds, 0, []
        self.error = None

    async def list_pending(self):
        self.listings += 1
        await anyio.sleep(self.seconds)
        for start in range(0, len(self.pending), 500):
            yield [ExportTask(task_id, created_at=float(start)) for task_id in self.pending[start : start + 500]]
        if self.error:
            raise self.error

    async def start(self, task):
        self.sent.append(("start", task.id))
        return Claim(task, ExportSpec(()), anyio.current_time())

    async def complete(self, task):
        self.sent.append(("complete", task.id))

    async def cancel(self, task):
        BEFORE_SENDING.get()()
        self.sent.append(("cancel", task.id))

    async def fail(self, task, message):
        BEFORE_SENDING.get()()
        self.sent.append(("fail", task.id))


class Node:
    """A node with its source."""

    def __init__(self, store, aluma, name="a", *, nodes=("a", "b"), queue_size=10, clock=system_time):
        self.link, self.tracked, self.holds, self.listed = make_link(store, name, clock=clock), set(), [], []
        self.polls = 0
        self.hooks = SourceHooks(
            lambda: queue_size, self.tracked.__contains__, self._merge, self._poll_now, self.listed.append
        )
        self.source = FleetSource(aluma, self.link, lambda: nodes, self.hooks)

    async def _merge(self, holds):
        self.holds += holds

    def _poll_now(self):
        self.polls += 1

    async def list(self):
        return [task.id async for tasks in self.source.list_pending() for task in tasks]


def make_nodes(*names, pending=(), store=None, **options):
    store, aluma = store or SimulatedFleetStore(), Aluma(*pending)
    return store, aluma, [Node(store, aluma, name, nodes=names, **options) for name in names]


def task_ids(count, start=0):
    return [f"task-{number}" for number in range(start, start + count)]


@virtual_time
async def test_source_lists_once_for_all_nodes():
    _, aluma, (one, two) = make_nodes("a", "b", pending=task_ids(100))
    async with running(one.link, two.link):
        taken = Counter()
        for _ in range(5):
            for node in (one, two):
                listed = await node.list()
                node.tracked.update(listed)
                taken.update(listed)
        assert set(taken) == set(task_ids(100))
        assert max(taken.values()) == 1
        assert aluma.listings == 1


@virtual_time
async def test_source_returns_at_most_the_size_of_the_queue():
    _, _, (node, _) = make_nodes("a", "b", pending=task_ids(100))
    async with running(node.link):
        assert len(await node.list()) == 10


@virtual_time
async def test_source_takes_its_own_part_first():
    _, _, (one, two) = make_nodes("a", "b", pending=task_ids(100))
    own = owned_slots("a", ["b"])
    async with running(one.link, two.link):
        assert all(slot_of(task_id) in own for task_id in await one.list())
        assert not any(slot_of(task_id) in own for task_id in await two.list())


@virtual_time
async def test_source_counts_the_listing_of_another_node_as_its_own():
    """An idle fleet lists once per polling interval."""
    _, aluma, (one, two) = make_nodes("a", "b")
    async with running(one.link, two.link):
        for number in range(1, 5):
            assert await one.list() == []
            assert await two.list() == []
            assert aluma.listings == number


@virtual_time
async def test_source_lists_when_the_last_listing_is_older_than_the_node():
    """A run with --once must not end because of the listing of an earlier run."""
    store, aluma, (one,) = make_nodes("a")
    async with running(one.link):
        await one.list()
    aluma.pending = task_ids(3)
    _, _, (later,) = make_nodes("b", store=store)
    later.source = FleetSource(aluma, later.link, lambda: ["b"], later.hooks)
    async with running(later.link):
        assert await later.list() == task_ids(3)


@virtual_time
async def test_source_ends_the_polling_interval_when_another_node_has_listed():
    """Also if that listing is empty; and not for its own listing."""
    _, aluma, (one, two) = make_nodes("a", "b")
    async with running(one.link, two.link):
        await one.list()
        await pass_time(5)
        assert one.polls == 0
        assert two.polls > 0
        await two.list()
        polls = two.polls
        await pass_time(5)
        assert two.polls == polls
        aluma.pending = task_ids(30)
        await one.list()
        await pass_time(0)
        assert two.polls > polls


@virtual_time
async def test_source_shares_listings_only_between_nodes_with_the_same_filters():
    _, aluma, (one, two) = make_nodes("a", "b", pending=task_ids(30))
    two.link.scope = "other projects"
    async with running(one.link, two.link):
        assert len(await one.list()) == 10
        assert len(await two.list()) == 10
        assert aluma.listings == 2


@virtual_time
async def test_source_waits_for_the_tasks_of_a_listing_in_progress():
    _store, aluma, (one, two) = make_nodes("a", "b", pending=task_ids(40))
    aluma.seconds = 20.0
    async with running(one.link, two.link), anyio.create_task_group() as group:
        group.start_soon(one.list)
        await pass_time(1)
        started_at = anyio.current_time()
        assert len(await two.list()) == 10
        assert 18 <= anyio.current_time() - started_at <= 20
    assert aluma.listings == 1


@virtual_time
async def test_source_lists_when_the_lister_has_died():
    store, _aluma, (one, two) = make_nodes("a", "b", pending=task_ids(5))
    async with running(one.link, two.link):
        assert await store.begin_listing("dead")
        started_at = anyio.current_time()
        assert len(await two.list()) == 5
        assert anyio.current_time() - started_at <= 7


@virtual_time
async def test_source_ends_its_turn_when_its_listing_fails():
    _, aluma, (one, two) = make_nodes("a", "b")
    async with running(one.link, two.link):
        aluma.error = SourceError("no")
        with pytest.raises(SourceError):
            await one.list()
        aluma.error, aluma.pending = None, task_ids(5)
        started_at = anyio.current_time()
        assert len(await two.list()) == 5
        assert anyio.current_time() - started_at < 0.1


@virtual_time
async def test_source_lists_again_a_queued_task_that_its_node_does_not_have():
    """A task that was not admitted would otherwise never be listed again."""
    _, _, (one, two) = make_nodes("a", "b", pending=task_ids(4))
    async with running(one.link, two.link):
        assert len(await one.list()) == 4
        one.tracked.update(["task-0"])
        assert sorted(await one.list()) == ["task-1", "task-2", "task-3"]


@virtual_time
async def test_source_publishes_the_rest_of_a_long_listing_later():
    count = MAX_ROWS + 3000
    _store, aluma, (one, two) = make_nodes("a", "b", pending=task_ids(count), queue_size=1500)
    async with running(one.link, two.link), anyio.create_task_group() as group:
        group.start_soon(one.source.run)
        first = await one.list()
        one.tracked.update(first)
        assert one.listed[-1].total == count
        taken = Counter(first)
        while len(taken) < count:
            listed = await two.list()
            two.tracked.update(listed)
            taken.update(listed)
        assert max(taken.values()) == 1
        assert aluma.listings == 1
        group.cancel_scope.cancel()


@virtual_time
async def test_source_merges_the_holds_of_other_nodes_before_it_returns_tasks():
    _, _, (one, two) = make_nodes("a", "b", pending=["t"])
    async with running(one.link, two.link):
        one.link.records.put_hold(HoldRecord("h", system_time(), 60.0))
        await pass_time(1)
        await two.list()
        assert [hold.task_id for hold in two.holds] == ["h"]


@virtual_time
async def test_source_lists_alone_while_the_store_is_unavailable():
    """First its own part; other tasks, whose node may be dead, when they have been pending for a while."""
    store, aluma, (one, _) = make_nodes("a", "b", pending=task_ids(100))
    own = {task_id for task_id in task_ids(100) if slot_of(task_id) in owned_slots("a", ["b"])}
    async with running(one.link):
        store.unavailable = True
        await pass_time(1)
        assert set(await one.list()) == own
        await pass_time(OTHERS_SECONDS / 2)
        aluma.pending.append("task-new")
        assert set(await one.list()) - {"task-new"} == own
        await pass_time(OTHERS_SECONDS / 2)
        assert set(await one.list()) >= set(task_ids(100))


@virtual_time
async def test_source_lists_all_tasks_when_it_never_reached_the_store():
    store, _, (one,) = make_nodes("a", pending=task_ids(100))
    store.unavailable = True
    async with running(one.link):
        assert len(await one.list()) == 100


@virtual_time
async def test_source_continues_alone_when_the_store_fails_during_a_listing():
    store, aluma, (one, _) = make_nodes("a", "b", pending=task_ids(2000))
    async with running(one.link):
        pages = one.source.list_pending()

        async def fail_later():
            await anyio.sleep(0.5)
            store.unavailable = True

        aluma.seconds = 1.0
        async with anyio.create_task_group() as group:
            group.start_soon(fail_later)
            listed = [task.id async for tasks in pages for task in tasks]
        assert set(listed) == {task_id for task_id in task_ids(2000) if slot_of(task_id) in owned_slots("a", ["b"])}


@virtual_time
async def test_source_does_not_start_a_task_that_another_node_has():
    store, aluma, (one, _) = make_nodes("a", "b")
    async with running(one.link):
        await store.publish_listing(ListingPage(node_id="b", rows=(ExportTask("t"),), is_first=True))
        other = make_link(store, "b")
        async with running(other):
            await other.wait(other.begin_sync(rows=1))
            one.link.records.put_claim(claim("t", ClaimState.STARTING))
            await one.link.wait(one.link.begin_sync())
            with pytest.raises(ClaimConflict):
                await one.source.start(ExportTask("t"))
            assert (await one.source.start(ExportTask("free"))).task.id == "free"
        assert aluma.sent == [("start", "free")]


@virtual_time
async def test_source_completes_without_the_store_and_cancels_only_with_proof():
    store, aluma, (node,) = make_nodes("a")
    async with running(node.link):
        node.link.records.put_claim(claim("t"))
        await node.link.wait(node.link.begin_sync())
        store.unavailable = True
        await pass_time(10)
        await node.source.complete(ExportTask("t"))
        with pytest.raises(Unavailable):
            await node.source.cancel(ExportTask("t"))
        with pytest.raises(Unavailable):
            await node.source.fail(ExportTask("t"), "why")
        store.unavailable = False
        await pass_time(1)
        await node.source.cancel(ExportTask("t"))
        await node.source.fail(ExportTask("t"), "why")
    assert aluma.sent == [("complete", "t"), ("cancel", "t"), ("fail", "t")]


@virtual_time
async def test_source_proves_a_claim_with_a_report_before_it_cancels():
    store, aluma, clock = SimulatedFleetStore(), Aluma(), Suspendable()
    node = Node(store, aluma, clock=clock)
    async with running(node.link):
        node.link.records.put_claim(claim("t"))
        await node.link.wait(node.link.begin_sync())
        clock.suspended = 600.0
        await node.source.cancel(ExportTask("t"))
    assert aluma.sent == [("cancel", "t")]


@virtual_time
async def test_source_checks_a_claim_again_when_the_request_had_to_wait():
    """A request may wait for a permit for so long that another node takes over the claim meanwhile."""
    store, aluma, (node,) = make_nodes("a")
    checks = []

    async def cancel_late(task):
        store.unavailable = True
        await anyio.sleep(10)
        checks.append(task.id)
        BEFORE_SENDING.get()()
        aluma.sent.append(("cancel", task.id))

    aluma.cancel = cancel_late
    async with running(node.link):
        node.link.records.put_claim(claim("t"))
        await node.link.wait(node.link.begin_sync())
        outer = []
        token = BEFORE_SENDING.set(lambda: outer.append("checked"))
        with pytest.raises(Unavailable):
            await node.source.cancel(ExportTask("t"))
        BEFORE_SENDING.reset(token)
    assert (checks, outer, aluma.sent) == (["t"], ["checked"], [])
