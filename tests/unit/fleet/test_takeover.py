"""``FleetTakeover``: the claims of a dead node are passed on once, and those of a living one never."""

import anyio
import pytest
from msgspec.structs import replace

from aluma_async.fleet.ports import FleetClaim, RecordState
from aluma_async.fleet.records import NO_LEASE
from aluma_async.fleet.takeover import FleetTakeover
from aluma_async.models import ClaimState
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import claim, make_link, pass_time, running
from tests.support.world import system_time


class Node:
    """A node that watches the others; ``taken`` are the claims passed on, ``reports`` whether it records them."""

    def __init__(self, store, name, *, silent_seconds=120.0, records=True):
        self.store, self.link, self.taken, self.records = store, make_link(store, name), [], records
        self.takeover = FleetTakeover(
            self.link, silent_seconds=silent_seconds, add_orphaned=self._add, clock=system_time
        )

    def _add(self, claims):
        self.taken += claims
        for taken in claims if self.records else ():
            self.link.records.put_claim(taken.record)

    def die(self, *, power_loss=False):
        """End as after SIGKILL, or after a power loss, which closes no connection."""
        self.store.cut_off.add(self.link.node_id)
        if not power_loss:
            self.store.disconnect(self.link.node_id)

    @property
    def task_ids(self):
        return sorted(taken.record.task_id for taken in self.taken)


class Fleet:
    """Nodes that run from the start."""

    def __init__(self, *names, **options):
        self.store = SimulatedFleetStore()
        self.nodes = {name: Node(self.store, name, **options) for name in names}

    async def __aenter__(self):
        self._running = running(*(node.link for node in self.nodes.values()))
        await self._running.__aenter__()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        for node in self.nodes.values():
            self._group.start_soon(node.takeover.run)
        await pass_time(3)
        return self

    async def __aexit__(self, *error):
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(*error)
        await self._running.__aexit__(*error)

    def taken(self):
        return sorted(task_id for node in self.nodes.values() for task_id in node.task_ids)


@virtual_time
async def test_takeover_passes_on_the_claims_of_a_killed_node_once():
    """Within ten seconds, and to one of the other nodes."""
    async with Fleet("a", "b", "c") as fleet:
        fleet.nodes["a"].link.records.put_claim(claim("t"))
        fleet.nodes["a"].link.records.put_claim(claim("s", ClaimState.STARTING))
        fleet.nodes["a"].link.records.put_queued(["q"])
        await pass_time(5)
        fleet.nodes["a"].die()
        await pass_time(5)
        assert fleet.taken() == []
        await pass_time(3)
        assert fleet.taken() == ["s", "t"]
        await pass_time(60)
        assert fleet.taken() == ["s", "t"]


@virtual_time
async def test_takeover_describes_the_orphaned_claims():
    async with Fleet("a", "b") as fleet:
        started = claim("claimed")
        late = claim("late", ClaimState.ORPHANED, start_unconfirmed_at=system_time())
        unconfirmed = claim("unconfirmed", ClaimState.ORPHANED, sent_at=NO_LEASE, start_unconfirmed_at=system_time())
        committed = claim("committed", ClaimState.COMMITTED)
        for record in (started, late, unconfirmed, committed, claim("starting", ClaimState.STARTING)):
            fleet.nodes["a"].link.records.put_claim(record)
        await pass_time(1)
        fleet.nodes["a"].die()
        await pass_time(9)
        taken = {entry.record.task_id: entry for entry in fleet.nodes["b"].taken}
        assert {entry.record.state for entry in taken.values()} == {ClaimState.ORPHANED}
        assert [name for name, entry in taken.items() if entry.is_interrupted] == ["claimed", "starting"]
        assert taken["claimed"].record.sent_at.boottime == pytest.approx(started.sent_at.boottime, abs=0.1)
        assert taken["claimed"].record.start_unconfirmed_at is None
        assert taken["late"].record.start_unconfirmed_at.wall == pytest.approx(late.start_unconfirmed_at.wall, abs=0.1)
        assert taken["unconfirmed"].record.sent_at == NO_LEASE
        assert taken["starting"].record.start_unconfirmed_at is not None, "Aluma may still execute its Start"


@virtual_time
async def test_takeover_leaves_a_stopped_node_alone_until_silent_seconds():
    """A process that is stopped keeps its subscription, as after a power loss."""
    async with Fleet("a", "b", silent_seconds=60.0) as fleet:
        fleet.nodes["a"].link.records.put_claim(claim("t"))
        await pass_time(1)
        fleet.nodes["a"].die(power_loss=True)
        await pass_time(58)
        assert fleet.taken() == []
        await pass_time(4)
        assert fleet.taken() == ["t"]


@pytest.mark.parametrize("failure", ["restart", "empty", "unavailable"])
@virtual_time
async def test_takeover_takes_nothing_after_a_failure_of_the_store(failure):
    """All nodes seem silent, and all connections were reset."""
    async with Fleet("a", "b", "c") as fleet:
        for name, node in fleet.nodes.items():
            node.link.records.put_claim(claim(f"of {name}"))
        await pass_time(1)
        for _ in range(5):
            if failure == "unavailable":
                fleet.store.unavailable = True
                await pass_time(20)
                fleet.store.unavailable = False
            else:
                fleet.store.restart(fleet.store.save() if failure == "restart" else None)
            await pass_time(15)
        assert fleet.taken() == []
        assert all(len(node.takeover.active_nodes) == 3 for node in fleet.nodes.values())


@virtual_time
async def test_takeover_finds_claims_whose_reply_was_lost():
    async with Fleet("a", "b") as fleet:
        fleet.nodes["a"].link.records.put_claim(claim("t"))
        await pass_time(1)
        fleet.nodes["a"].die()
        await pass_time(6)
        (dead,) = [node for node in fleet.nodes["b"].link.update.nodes if node.node_id == "a"]
        await fleet.store.take_over("b", dead)
        await pass_time(2)
        assert fleet.taken() == ["t"]


@virtual_time
async def test_takeover_passes_on_claims_once_when_they_are_recorded_late():
    """The store returns them until this node reports them as its own."""
    async with Fleet("a", "b", records=False) as fleet:
        fleet.nodes["a"].link.records.put_claim(claim("t"))
        await pass_time(1)
        fleet.nodes["a"].die()
        await pass_time(30)
        assert fleet.taken() == ["t"]


@virtual_time
async def test_takeover_passes_on_the_claims_of_a_taker_that_dies():
    async with Fleet("a", "b", "c", records=False) as fleet:
        fleet.nodes["a"].link.records.put_claim(claim("t"))
        await pass_time(1)
        fleet.nodes["a"].die()
        await pass_time(10)
        (taker,) = [name for name, node in fleet.nodes.items() if node.taken]
        fleet.nodes[taker].die()
        await pass_time(10)
        assert fleet.taken() == ["t", "t"]
        assert len(fleet.nodes[taker].taken) == 1


@virtual_time
async def test_takeover_does_not_pass_on_a_task_that_this_node_has_claimed():
    async with Fleet("a", "b") as fleet:
        for node in fleet.nodes.values():
            node.link.records.put_claim(claim("t"))
        await pass_time(1)
        fleet.nodes["a"].die()
        await pass_time(10)
        assert fleet.taken() == []


class MovingStore(SimulatedFleetStore):
    """A store whose every update contains a moved claim."""

    async def sync(self, report):
        return replace(await super().sync(report), moved=(FleetClaim("t", RecordState.CLAIMED),))


@virtual_time
async def test_takeover_leaves_a_moved_claim_to_a_node_that_has_the_task():
    node = Node(MovingStore(), "a")
    async with running(node.link, claims=[claim("t")]):
        await pass_time(5)
        assert node.taken == []
        node.link.records.close("t")
        await pass_time(2)
        assert node.task_ids == ["t"]


@virtual_time
async def test_takeover_lists_the_active_nodes():
    async with Fleet("a", "b", "c") as fleet:
        assert sorted(fleet.nodes["a"].takeover.active_nodes) == ["a", "b", "c"]
        fleet.nodes["c"].die()
        await pass_time(8)
        assert sorted(fleet.nodes["a"].takeover.active_nodes) == ["a", "b"]
        fleet.store.unavailable = True
        await pass_time(60)
        assert sorted(fleet.nodes["a"].takeover.active_nodes) == ["a", "b"], "the last known ones"
