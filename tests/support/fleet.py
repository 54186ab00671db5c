"""Nodes of a fleet on a simulated store, without exporters."""

from contextlib import asynccontextmanager
from itertools import chain, count

import anyio

from aluma_async.fleet.identity import Identity
from aluma_async.fleet.link import FleetLink
from aluma_async.models import ClaimRecord, ClaimState, Timestamp
from tests.support.world import system_time


class Suspendable:
    """The virtual time as a timestamp; ``suspended`` seconds passed while the event loop stood still."""

    def __init__(self):
        self.suspended = 0.0

    def __call__(self):
        now = system_time()
        return Timestamp(now.boot, now.boottime + self.suspended, now.wall + self.suspended)


class KnownIdentity(Identity):
    """The ids of a node by name: ``a``, and ``a-2``, ``a-3`` after its claims were taken over."""

    def __init__(self, name, *predecessors):
        self._names = chain([name], (f"{name}-{number}" for number in count(2)))
        super().__init__()
        self.predecessors = predecessors

    def _new_id(self):
        return next(self._names)


def make_link(store, name="a", *predecessors, clock=system_time):
    """Return the link of a node."""
    return FleetLink(store, KnownIdentity(name, *predecessors), claim_timeout=1800.0, clock=clock)


@asynccontextmanager
async def running(*links, claims=()):
    """Run links, the first one with claims of an earlier process, until they are connected; end them at the end."""
    async with anyio.create_task_group() as group:
        for link in links:
            group.start_soon(link.run)
            link.load(claims)
            claims = ()
        with anyio.move_on_after(1.5):
            for link in links:
                await link.wait(link.begin_sync())
        yield
        group.cancel_scope.cancel()


def claim(task_id, state=ClaimState.CLAIMED, **fields):
    """Return a claim whose Start was sent now."""
    return ClaimRecord(task_id, state, **{"sent_at": system_time(), **fields})


async def pass_time(seconds):
    """Wait for some seconds, and a moment more, so that what is due has happened."""
    await anyio.sleep(seconds + 0.05)
