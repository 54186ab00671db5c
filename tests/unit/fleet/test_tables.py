"""``FleetTables``: a report costs the same, however much the store contains."""

import pytest

from aluma_async import sqlite_file
from aluma_async.fleet.ports import FleetClaim, FleetHold, Limits, ListingPage, NodeReport, RecordState
from aluma_async.fleet.stores.tables import FleetTables
from aluma_async.models import ExportTask, HoldRecord, Timestamp

STATES = (RecordState.STARTING, RecordState.CLAIMED, RecordState.SETTLED)


class Tables:
    """Tables in memory that count the steps of SQLite, in tens."""

    def __init__(self):
        self.steps, self.sequence, self.revision = 0, 0, 0
        database = sqlite_file.connect("", (), timeout=0)
        database.set_progress_handler(self._count, 10)
        self.tables = FleetTables(database, lambda _: True)

    def _count(self):
        self.steps += 1

    def sync(self, *claims, **fields):
        """Return the number of steps."""
        before, self.sequence = self.steps, self.sequence + 1
        report = NodeReport(node_id="a", sequence=self.sequence, claims=claims, revision=self.revision, **fields)
        update, _ = self.tables.sync(report, 1000.0 + self.sequence / 1000)
        self.revision = update.revision
        return self.steps - before


def usual(number, count=10):
    """Return the changes of a usual report."""
    return [FleetClaim(f"{state}-{number}-{task}", state, remaining=60.0) for state in STATES for task in range(count)]


def settled(count):
    return [FleetClaim(f"done-{number}", RecordState.SETTLED, remaining=60.0) for number in range(count)]


def holds(count):
    return tuple(FleetHold(f"h{n}", 0.0, HoldRecord(f"h{n}", Timestamp("", 0.0, 0.0), 60.0)) for n in range(count))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("content", ["settled", "holds"])
def test_tables_apply_a_report_in_as_many_steps_with_much_content(content, full):
    """A fleet settles thousands of tasks in the minute for which the store remembers them."""
    tables = Tables()
    empty = min(tables.sync(*usual(number), full=full) for number in range(3))
    if content == "settled":
        tables.sync(*settled(20_000))
    else:
        tables.sync(holds=holds(5000))
    assert min(tables.sync(*usual(number), full=full) for number in range(10, 13)) < 1.5 * empty


def test_tables_take_rows_in_as_many_steps_from_a_long_listing():
    def steps(count):
        tables = Tables()
        rows = tuple(ExportTask(f"t{number}") for number in range(count))
        tables.tables.publish_listing(ListingPage(node_id="a", rows=rows, is_first=True), 1000.0)
        tables.sync()
        return tables.sync(rows=32, slots=tuple(range(128)))

    assert steps(8000) < 12 * steps(100)


def test_tables_delete_what_has_expired():
    tables = Tables()
    tables.sync(*(FleetClaim(f"t{number}", RecordState.CLAIMED, remaining=0.0005) for number in range(250)))
    for _ in range(4):
        tables.sync()
    (node,) = tables.tables.inspect(1001.0).nodes
    assert node.claims == 0


def test_tables_keep_a_node_that_another_one_with_an_earlier_time_follows():
    """A process reads its clock before it waits for the file, in which a later time may be stored meanwhile."""
    tables = Tables().tables
    limits = {"limits": Limits(8.0), "wanted": Limits(8.0)}
    tables.sync(NodeReport(node_id="a", sequence=1, **limits), 1000.0)
    tables.sync(NodeReport(node_id="a", sequence=2, **limits), 1010.0)
    update, _ = tables.sync(NodeReport(node_id="b", sequence=1, **limits), 1009.9)
    assert [node.node_id for node in update.nodes] == ["a"]
    again, _ = tables.sync(NodeReport(node_id="a", sequence=3, held=Limits(8.0), **limits), 1010.1)
    assert again.stored_sequence == 2
    assert update.quota.max_at_once + again.quota.max_at_once <= 8
