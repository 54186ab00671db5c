"""``FleetStore``, the port through which the nodes of a fleet share their work, and its values.

``aluma_async.testing.check_fleet_store`` checks an implementation. Times travel as seconds since or until an event,
because the nodes have no common clock; a store adds the time since the last report. A negative age means expired.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Literal, Protocol

from msgspec import Struct

from aluma_async.models import ExportTask, HoldRecord
from aluma_async.policy.liveness import NodeSnapshot

TIMEOUT_SECONDS = 1.0
"""Time within which every method of a store returns or raises."""
TURN_SECONDS = 5.0
"""Time after which a node that does not report its listing any more loses its turn."""
RECENTLY_SETTLED_SECONDS = 60.0
"""Time for which a settled task may still be listed by Aluma."""
QUEUED_SECONDS = 60.0
"""Time after which a task is listed again that a node has queued, unless it has reported it since."""
TAKEN_OVER_SECONDS = 86_400.0
"""Time for which the reports of a node that was taken over are not applied; longer than any lease."""
HOLD_MEMORY_SECONDS = 3600.0
"""Time after the end of a hold for which its failures still count; the pipeline counts them at least as long."""
ENDED_HOLD_SECONDS = 86_400.0
"""Time for which the end of a hold is remembered, so that a node that was disconnected does not restore it."""
MAX_ROWS = 10_000
"""Number of listed tasks that a store holds at most."""
MAX_HOLDS_PER_UPDATE = 1000
"""Number of changed holds that one update contains at most; the next ones follow."""


class RecordState(StrEnum):
    """What a node has to do with a task. The order is that of a task's way through an exporter."""

    QUEUED = "queued"
    """Queued by the node, unclaimed."""
    STARTING = "starting"
    """Start is about to be sent, or has no response yet."""
    CLAIMED = "claimed"
    COMMITTED = "committed"
    FAILING = "failing"
    ORPHANED = "orphaned"
    """As the states of a claim with these names."""
    UNCONFIRMED = "unconfirmed"
    """No claim, but Aluma may still execute a Start whose reply was lost. It excludes no other node."""
    SETTLED = "settled"
    """Completed or failed; Aluma may still list the task for a moment."""
    RELEASED = "released"
    """No record any more. Only in reports."""


HELD = frozenset({RecordState.CLAIMED, RecordState.COMMITTED, RecordState.FAILING, RecordState.ORPHANED})
"""States in which the node holds a claim at Aluma, as far as it knows."""
INTENDED = frozenset({RecordState.QUEUED, RecordState.STARTING})
"""States in which the node means to claim the task, and is refused if another node has it."""
EXCLUSIVE = HELD | INTENDED | {RecordState.SETTLED}
"""States that keep a task from other nodes and from the listing."""
CLAIMS = HELD | {RecordState.STARTING, RecordState.UNCONFIRMED}
"""States in which a claim may exist at Aluma, so that another node must release it if this one dies."""


class FleetClaim(Struct, frozen=True, gc=False):
    """A node's record of a task. It contains neither content nor names."""

    task_id: str
    state: RecordState
    age: float = 0.0
    """Seconds since Start was sent, or since the task was queued or settled."""
    remaining: float = QUEUED_SECONDS
    """Seconds after which the record is void, because the claim has certainly ended."""
    unconfirmed_age: float | None = None
    """Seconds since the outcome of a Start became unknown."""


class FleetHold(Struct, frozen=True, gc=False):
    """The hold of a task, which applies to all nodes. The youngest one counts."""

    task_id: str
    age: float
    """Seconds since it began or ended."""
    record: HoldRecord | None = None
    """The hold; its ``since`` is that of another machine and has no meaning. None: the hold has ended."""


class Limits(Struct, frozen=True, gc=False):
    """Amounts of the three limits; infinite where there is none."""

    max_at_once: float = 1.0
    max_per_second: float = math.inf
    max_bytes_per_second: float = math.inf


class NodeReport(Struct, frozen=True, kw_only=True):
    """What a node reports, each second and whenever something has changed."""

    node_id: str
    sequence: int
    """Number of the report, higher than that of any earlier report of the node."""
    claims: tuple[FleetClaim, ...] = ()
    """New values of records."""
    full: bool = False
    """Whether ``claims`` are all records of the node, so that others are deleted (but those settled a moment ago)."""
    holds: tuple[FleetHold, ...] = ()
    revision: int = 0
    """The ``revision`` of the last update: holds that changed since are returned."""
    predecessors: tuple[str, ...] = ()
    """Ids of the ended nodes that used the journal of this node before. Their records move to this node."""
    leaving: bool = False
    """Whether this is the last report, so that a node without records is forgotten."""
    scope: str = ""
    """Names the filters of the node's listings. Nodes with other filters need other tasks, and list by themselves."""
    rows: int = 0
    """Number of tasks that the node can queue now."""
    slots: tuple[int, ...] = ()
    """Slots of the node (``policy.rendezvous``): tasks in them are returned first."""
    min_position: int = 0
    """Tasks published at an earlier position are not returned."""
    is_listing: bool = False
    """Whether the node is still listing, which renews its turn."""
    limits: Limits = Limits()
    """The configured limits. The smallest of all nodes applies."""
    wanted: Limits = Limits()
    """The amounts that the node can use now."""
    held: Limits = Limits()
    """The amounts that it may be using now: its quota, or its requests in flight if they are more."""
    pause: float = 0.0
    """Seconds for which Aluma has asked to wait (Retry-After)."""


class ListingInfo(Struct, frozen=True, gc=False):
    """The last complete listing."""

    number: int = 0
    """Counts the complete listings."""
    total: int = 0
    """Number of pending tasks, including those that were left out."""
    oldest_created_at: float | None = None
    unpublished: int = 0
    """Number of tasks that the node which listed them still keeps, because the store is full."""


class FleetUpdate(Struct, frozen=True, kw_only=True):
    """The reply to a report."""

    epoch: str
    """Random id that a store creates when it is empty."""
    stored_sequence: int
    """Number of the node's report before this one; lower than the last acknowledged one: writes were lost.

    If it is not lower than that of this report, the report was ignored.
    """
    taken_over: bool = False
    """Whether another node has taken over the records of this one. Nothing else in the update is valid then."""
    predecessor: Literal["", "moved", "taken", "unknown"] = ""
    """The records of the predecessors: moved to this node; taken by another one before (if any were); or not known."""
    nodes: tuple[NodeSnapshot, ...] = ()
    """The other nodes that were not taken over."""
    refused: tuple[str, ...] = ()
    """Tasks of this report that another node has, so that they are not recorded for this one."""
    contested: tuple[str, ...] = ()
    """Tasks of which this node and another one have a record of a claim."""
    moved: tuple[FleetClaim, ...] = ()
    """Records taken over from other nodes that this node has not reported as its own yet."""
    holds: tuple[FleetHold, ...] = ()
    """Holds of other nodes that changed since ``revision`` of the report."""
    revision: int = 0
    rows: tuple[ExportTask, ...] = ()
    """Tasks for this node, recorded as queued by it."""
    rows_left: int = 0
    """Number of published tasks of the scope that no node has."""
    next_position: int = 0
    """Position of the task that is published next."""
    listing: ListingInfo = ListingInfo()
    lister: str = ""
    """Id of the node whose turn it is to list; empty if it is no node's turn."""
    quota: Limits = Limits(0.0)
    """The part of the limits that the node may use until the next update."""
    pause: float = 0.0
    """Seconds for which no node may send a request."""


class ListingPage(Struct, frozen=True, kw_only=True):
    """A part of a listing."""

    node_id: str
    scope: str = ""
    """As in ``NodeReport``."""
    rows: tuple[ExportTask, ...] = ()
    is_first: bool = False
    """Whether a listing begins, so that the rows of the one before are deleted."""
    end: Literal["", "complete", "failed"] = ""
    """Whether the listing has ended with this page. The turn ends with it."""
    total: int = 0
    oldest_created_at: float | None = None
    """As in ``ListingInfo``, with the last page."""
    unpublished: int = 0
    """Number of listed tasks that the node keeps until there is room."""


class NodeView(Struct, frozen=True):
    """A node, for the administrator."""

    node_id: str
    seconds: float
    """Seconds since its last report."""
    is_present: bool
    claims: int
    """Number of its claims."""
    quota: Limits


class FleetView(Struct, frozen=True):
    """The content of a store, for the administrator."""

    epoch: str
    nodes: tuple[NodeView, ...]
    listing: ListingInfo
    """The listing with the most tasks, if nodes have different filters."""
    rows: int
    holds: int
    pause: float


class NoticeKind(StrEnum):
    """What has changed."""

    LISTING = "l"
    """Tasks were published, or a listing has ended."""
    PAUSE = "p"
    """All requests must pause."""
    HOLDS = "h"
    """Holds were released."""


class Notice(Struct, frozen=True, gc=False):
    """Asks a node to report at once, so that the update shows what has changed. It contains no data."""

    kind: NoticeKind
    number: int


class FleetStore(Protocol):
    """Storage that all nodes of a fleet share.

    Every method MUST be atomic, MUST return or raise ``FleetStoreError`` within ``TIMEOUT_SECONDS``, MUST be safe to
    repeat, and MUST NOT retry by itself.
    """

    async def sync(self, report: NodeReport) -> FleetUpdate:
        """Apply a report and return what concerns the node.

        MUST ignore a report whose sequence number is not higher than the stored one, and MUST return the stored number.
        MUST NOT apply a report of a node that was taken over, for at least ``TAKEN_OVER_SECONDS``.

        MUST refuse an ``INTENDED`` record if another node has an ``EXCLUSIVE`` one. MUST report ``HELD`` records of two
        nodes as contested to both, and an UNCONFIRMED one as contested if another node is STARTING or has a ``HELD``
        one. A full report MUST replace all records of its node, except those that it has settled and those moved to it
        that it has not reported yet.

        MUST keep the sum of the valid quotas within the limit (``policy.quota``), and MUST delete some expired records.
        """
        ...

    async def begin_listing(self, node_id: str, scope: str = "") -> bool:
        """Return whether it is the node's turn to list.

        MUST return true for one node of each scope at a time. A turn MUST expire ``TURN_SECONDS`` after the node's last
        call, page, or report with ``is_listing``.
        """
        ...

    async def publish_listing(self, page: ListingPage) -> None:
        """Store listed tasks, at most ``MAX_ROWS`` of each scope.

        MUST leave out the tasks of which a node has an ``EXCLUSIVE`` record, and those on hold.
        """
        ...

    async def take_over(self, node_id: str, dead: NodeSnapshot) -> Sequence[FleetClaim]:
        """Move the ``CLAIMS`` of a dead node to the node ``node_id``, and return them; drop its QUEUED records.

        MUST move them to exactly one node, and only if the dead node's stored sequence number is the observed one and,
        unless it was observed as present, it is not present. MUST return them again if this node repeats the call.
        Until this node reports each of the tasks, ``sync`` MUST return its record in ``moved``.
        """
        ...

    async def release_holds(self, task_ids: Sequence[str]) -> None:
        """End the holds of tasks in all nodes."""
        ...

    async def inspect(self) -> FleetView:
        """Return the content. MUST NOT change anything."""
        ...

    def subscribe(self, node_id: str) -> AbstractAsyncContextManager[AsyncIterator[Notice]]:
        """Receive notices; MAY lose some. A node MUST count as present while, and only while, it is subscribed."""
        ...
