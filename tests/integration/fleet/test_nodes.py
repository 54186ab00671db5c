"""Exporters of a fleet against one simulated Aluma: the work is shared, and a failure of the store costs no task."""

import random
from collections import Counter

import anyio
import pytest

from aluma_async import Exporter, MemoryJournal
from aluma_async.fleet.limits import LimitHooks
from aluma_async.fleet.node import FleetNode, FleetSettings
from aluma_async.fleet.ports import Limits
from aluma_async.fleet.source import SourceHooks
from aluma_async.models import TaskState
from aluma_async.testing import MemoryDestination, SimulatedFleetStore, SimulatedSource
from aluma_async.testing.virtual_loop import Process
from tests.support.clock import virtual_time
from tests.support.fleet import KnownIdentity, pass_time
from tests.support.stack import simulated
from tests.support.world import clock_of_this_loop

START_SECONDS = 0.5
"""Time until the reply to a Start, so that four workers start eight tasks a second."""


class CountingSource(SimulatedSource):
    """Counts requests by operation, in ``requests``, and those that Aluma refused."""

    def __init__(self, aluma, requests):
        super().__init__(aluma)
        self.requests = requests

    async def _counted(self, name, request):
        self.requests[name] += 1
        try:
            return await request
        except Exception:
            self.requests[f"{name} refused"] += 1
            raise

    async def list_pending(self):
        self.requests["list"] += 1
        async for tasks in super().list_pending():
            yield tasks

    async def start(self, task):
        claim = await self._counted("start", super().start(task))
        await anyio.sleep(START_SECONDS)
        return claim

    async def cancel(self, task):
        return await self._counted("cancel", super().cancel(task))


class Node:
    """A process with an exporter, connected as the wiring does it."""

    def __init__(self, fleet, name, *predecessors, journal=None):
        self.fleet, self.journal = fleet, journal or MemoryJournal()
        clock = clock_of_this_loop()
        self.node = FleetNode(
            fleet.store,
            KnownIdentity(name, *predecessors),
            FleetSettings(Limits(32)),
            clock=clock,
            limit_hooks=LimitHooks(lambda _: None, lambda _: None, lambda: 0, lambda: True),
            source_hooks=SourceHooks(lambda: 8, self._is_tracked, self._merge_holds, lambda: None, lambda _: None),
            add_orphaned=self._add_orphaned,
        )
        self.link = self.node.link
        source = self.node.wrap_source(CountingSource(fleet.aluma, fleet.requests))
        self.exporter = Exporter(
            source,
            fleet.destination,
            workers=4,
            journal=self.node.wrap_journal(self.journal),
            clock=clock,
            uniform=random.Random(0).uniform,
        )
        self.process = Process()
        self.process.start(self._run())

    async def _run(self):
        async with anyio.create_task_group() as group:
            group.start_soon(self.node.run)
            await self.exporter.run()
            group.cancel_scope.cancel()

    def _is_tracked(self, task_id):
        return task_id in self.exporter._tracker

    async def _merge_holds(self, holds):
        for hold in holds:
            await self.exporter._cooldown.restart(hold)

    def _add_orphaned(self, taken):
        for claim in taken:
            self.exporter._claims._store(claim.record)
            self.exporter._recovery.schedule(claim.record.task_id)

    def kill(self):
        self.process.kill()
        self.fleet.store.disconnect(self.link.node_id)


class Fleet:
    """Nodes that export ``tasks`` tasks."""

    def __init__(self, count, tasks, **behaviour):
        self.store, self.requests = SimulatedFleetStore(), Counter()
        self.aluma, self.destination = simulated(tasks, **behaviour), MemoryDestination()
        self.nodes = [Node(self, f"n{number}") for number in range(count)]

    async def run_until_exported(self, seconds):
        """Wait until no task is left, then stop all nodes."""
        with anyio.fail_after(seconds):
            while self.aluma.ids(TaskState.PENDING) or self.aluma.ids(TaskState.CLAIMED):  # noqa: ASYNC110
                await anyio.sleep(0.1)
        for node in self.nodes:
            node.exporter.stop()
        for node in self.nodes:
            await node.process.ended.wait()
        assert not self.aluma.counts["requeued"], "no claim was left to its lease"
        assert len(self.aluma.ids(TaskState.COMPLETED)) == len(self.aluma.ids())


@virtual_time
async def test_fleet_exports_every_task_without_a_refused_start():
    fleet = Fleet(4, 300)
    await fleet.run_until_exported(120)
    assert fleet.requests["start"] == 300
    assert not fleet.requests["start refused"]
    assert fleet.requests["list"] <= 5, "the nodes share their listings"


@pytest.mark.parametrize("failure", ["unavailable", "empty", "old", "slow"])
@virtual_time
async def test_fleet_exports_every_task_when_the_store_fails(failure):
    fleet = Fleet(3, 900)
    content = fleet.store.save()
    await pass_time(2)
    for _ in range(3):
        if failure == "unavailable":
            fleet.store.unavailable = True
        elif failure == "slow":
            fleet.store.reply_delay = 2.0
        else:
            fleet.store.restart(content if failure == "old" else None)
        await pass_time(8)
        fleet.store.unavailable, fleet.store.reply_delay = False, 0.0
        await pass_time(3)
        assert fleet.aluma.ids(TaskState.PENDING)
    await fleet.run_until_exported(300)
    assert fleet.requests["start"] <= 1.03 * 900
    assert fleet.requests["list"] <= 20


@virtual_time
async def test_fleet_releases_the_claims_of_a_killed_node():
    fleet = Fleet(3, 300)
    await pass_time(5)
    killed = fleet.nodes.pop()
    killed.kill()
    left = len(fleet.aluma.ids(TaskState.CLAIMED))
    await fleet.run_until_exported(120)
    assert anyio.current_time() < 60, "long before the leases end"
    assert fleet.requests["cancel"] - fleet.requests["cancel refused"] >= 3
    assert fleet.requests["cancel"] <= left


@virtual_time
async def test_fleet_restarts_a_killed_node_without_a_double_release():
    fleet = Fleet(3, 300)
    await pass_time(5)
    killed = fleet.nodes.pop()
    killed.kill()
    fleet.nodes.append(Node(fleet, "next", killed.link.node_id, journal=killed.journal))
    await fleet.run_until_exported(120)
    assert fleet.requests["cancel"] >= 3
    assert not fleet.requests["cancel refused"]
