"""``TaskCompleted.destinations``: the names of the destinations that have the task's files."""

import random

import pytest

from aluma_async import Exporter, RetryPolicy, events
from aluma_async.destinations.router import DestinationRouter
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated


async def export(destination, faults=None):
    """Export three tasks; return all events."""
    seen = []
    exporter = Exporter(
        SimulatedSource(simulated(3), faults),
        destination,
        retry=RetryPolicy(1),
        on_event=seen.append,
        uniform=random.Random(0).uniform,
    )
    await exporter.run_until_drained()
    return seen


def completed_at(seen):
    return [event.destinations for event in seen if isinstance(event, events.TaskCompleted)]


ROUTERS = [
    (("only",), Routing((), "only"), ("only",)),
    (("a", "b", "unused"), Routing((Route(("b", "a")),)), ("a", "b")),
]


@pytest.mark.parametrize(("names", "routing", "expected"), ROUTERS)
@virtual_time
async def test_completed_task_names_its_destinations(names, routing, expected):
    router = DestinationRouter({name: MemoryDestination() for name in names}, routing)
    assert completed_at(await export(router)) == [expected] * 3


@pytest.mark.parametrize(("names", "routing", "expected"), ROUTERS)
@virtual_time
async def test_completed_task_names_its_destinations_when_recovery_completes_it(names, routing, expected):
    router = DestinationRouter({name: MemoryDestination() for name in names}, routing)
    faults = FaultPlan()
    faults.plan("complete", [Fault.DROP_BEFORE] * 3)
    seen = await export(router, faults)
    assert sum(isinstance(event, events.SettlementUnconfirmed) for event in seen) == 3
    assert completed_at(seen) == [expected] * 3


@virtual_time
async def test_completed_task_names_no_destination_when_it_has_no_name():
    assert completed_at(await export(MemoryDestination())) == [()] * 3
