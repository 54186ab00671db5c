"""``FleetTakeover``: finds dead nodes, and takes over their claims, to release them.

A claim of another node is only ever cancelled: Complete and Fail would delete Aluma's copy, and the dead node's folder
or quarantine may be on a lost disk.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from aluma_async.clock import loop_time
from aluma_async.fleet.link import FleetLink
from aluma_async.fleet.ports import FleetClaim, FleetUpdate, RecordState
from aluma_async.fleet.records import NO_LEASE, earlier
from aluma_async.models import ClaimRecord, ClaimState
from aluma_async.policy.liveness import Liveness
from aluma_async.ports import Clock

_IN_PROGRESS = (RecordState.STARTING, RecordState.CLAIMED)


class TakenClaim(Struct, frozen=True):
    """A claim of a dead node that this node must release."""

    record: ClaimRecord
    """The orphaned claim."""
    is_interrupted: bool
    """Whether the task was in progress when the node ended, so that it counts one more crash."""


class FleetTakeover:
    """Watches the other nodes.

    Args:
        link: The connection to the store.
        silent_seconds: Seconds without a heartbeat after which a node is dead although its presence is not closed.
        add_orphaned: Takes over orphaned claims. A task of which this node has an open claim is not passed to it.
        clock: Returns the time, including suspension of the machine.
    """

    def __init__(
        self,
        link: FleetLink,
        *,
        silent_seconds: float,
        add_orphaned: Callable[[Sequence[TakenClaim]], None],
        clock: Clock,
    ) -> None:
        self._link = link
        self._liveness = Liveness(silent_seconds)
        self._add_orphaned = add_orphaned
        self._clock = clock
        self._added: set[str] = set()
        """Tasks that were passed on, until the store has received this node's own record of them."""
        link.listeners.append(self._observe)

    @property
    def active_nodes(self) -> list[str]:
        """The ids of this node and of the other ones that were alive when the store was reached last."""
        return [self._link.node_id, *self._liveness.active()]

    async def run(self) -> None:
        """Take over the claims of dead nodes until cancelled."""
        while True:
            await self._link.wait_for_update()
            for node in self._liveness.dead(loop_time()):
                claims = await self._link.attempt(self._link.store.take_over(self._link.node_id, node), ())
                self._add(claims)

    def _observe(self, update: FleetUpdate, sent_at: float) -> None:
        self._liveness.observe(sent_at, update.epoch, update.nodes)
        self._added.intersection_update(claim.task_id for claim in update.moved)
        self._add(update.moved)

    def _add(self, claims: Iterable[FleetClaim]) -> None:
        now, taken = self._clock(), []
        for claim in claims:
            if claim.task_id in self._added or self._link.records.state(claim.task_id) is not None:
                continue
            self._added.add(claim.task_id)
            unconfirmed_age = 0.0 if claim.state is RecordState.STARTING else claim.unconfirmed_age
            is_claim = claim.state is not RecordState.UNCONFIRMED
            record = ClaimRecord(
                claim.task_id,
                ClaimState.ORPHANED,
                earlier(now, claim.age) if is_claim else NO_LEASE,
                start_unconfirmed_at=None if unconfirmed_age is None else earlier(now, unconfirmed_age),
            )
            taken.append(TakenClaim(record, claim.state in _IN_PROGRESS))
        if taken:
            self._add_orphaned(taken)
