"""``FleetNode``: the parts of one node, connected in the right order.

The exporter is made with the wrapped source and journal. ``run`` starts before the exporter, because loading the
journal waits for the first report, and is cancelled after it, so that the last report contains what is left.
"""

from collections.abc import Callable, Sequence

import anyio
from msgspec import Struct

from aluma_async.fleet.identity import Identity
from aluma_async.fleet.journal import FleetJournal
from aluma_async.fleet.limits import FleetLimits, LimitHooks
from aluma_async.fleet.link import FleetLink
from aluma_async.fleet.ports import FleetStore, Limits
from aluma_async.fleet.source import FleetSource, SourceHooks
from aluma_async.fleet.takeover import FleetTakeover, TakenClaim
from aluma_async.ports import Clock, Journal, TaskSource


class FleetSettings(Struct, frozen=True):
    """The configuration of a node."""

    limits: Limits
    """The limits of all nodes together."""
    claim_timeout: float = 1800.0
    """Length of Aluma's lease in seconds."""
    silent_seconds: float = 120.0
    """Seconds without a heartbeat after which a node is dead although its presence is not closed."""
    nodes: int = 0
    """Expected number of nodes; it divides the limits until the store is reached. 0: not known."""
    scope: str = ""
    """Names the filters of the node's listings."""


class FleetNode:
    """One node of a fleet.

    Args:
        store: The store of the fleet.
        identity: The id of the node.
        settings: Its configuration.
        clock: Returns the time, including suspension of the machine.
        limit_hooks: The parts of the exporter that apply limits.
        source_hooks: The parts of the exporter that the source needs.
        add_orphaned: Takes over claims of dead nodes, and releases them at once.
    """

    def __init__(
        self,
        store: FleetStore,
        identity: Identity,
        settings: FleetSettings,
        *,
        clock: Clock,
        limit_hooks: LimitHooks,
        source_hooks: SourceHooks,
        add_orphaned: Callable[[Sequence[TakenClaim]], None],
    ) -> None:
        self.link = FleetLink(store, identity, claim_timeout=settings.claim_timeout, clock=clock, scope=settings.scope)
        self.limits = FleetLimits(self.link, settings.limits, limit_hooks, nodes=settings.nodes)
        self._takeover = FleetTakeover(
            self.link, silent_seconds=settings.silent_seconds, add_orphaned=add_orphaned, clock=clock
        )
        self._source_hooks = source_hooks
        self._source: FleetSource | None = None

    def wrap_journal(self, journal: Journal) -> FleetJournal:
        """Return the journal of the exporter. Nothing is reported before it is loaded."""
        return FleetJournal(journal, self.link)

    def wrap_source(self, source: TaskSource) -> FleetSource:
        """Return the source of the exporter."""
        self._source = FleetSource(source, self.link, lambda: self._takeover.active_nodes, self._source_hooks)
        return self._source

    async def run(self) -> None:
        """Report, publish and take over until cancelled. The exporter runs meanwhile."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._takeover.run)
            if self._source:
                group.start_soon(self._source.run)
            await self.link.run()
