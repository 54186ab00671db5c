"""``NodeRecords``: what each report contains, and what it contains again after a failure."""

from aluma_async.fleet.ports import FleetHold, RecordState
from aluma_async.fleet.records import NO_LEASE, NodeRecords
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp
from tests.support.clock import ManualClock


class Clock(ManualClock):
    """Seconds since boot."""

    def __call__(self):
        return Timestamp("boot", self.now, 1e9 + self.now)


def make_records():
    clock = Clock()
    return NodeRecords(1800.0, clock), clock


def states(changes):
    return {claim.task_id: claim.state for claim in changes.claims}


def claim(task_id, state, at=0.0, **fields):
    return ClaimRecord(task_id, state, Timestamp("boot", at, 1e9 + at), **fields)


def hold(task_id, at=0.0, **fields):
    return HoldRecord(task_id, Timestamp("boot", at, 1e9 + at), 60.0, **fields)


def test_records_report_each_change_once_and_all_in_a_full_report():
    records, _ = make_records()
    records.put_claim(claim("a", ClaimState.STARTING))
    records.put_claim(claim("b", ClaimState.CLAIMED))
    assert states(records.pop_changes(full=False)) == {"a": "starting", "b": "claimed"}
    records.put_claim(claim("a", ClaimState.CLAIMED))
    assert states(records.pop_changes(full=False)) == {"a": "claimed"}
    assert states(records.pop_changes(full=True)) == {"a": "claimed", "b": "claimed"}


def test_records_report_a_change_again_when_the_report_failed():
    records, _ = make_records()
    records.put_claim(claim("a", ClaimState.CLAIMED))
    records.put_hold(hold("h"))
    records.close("gone")
    lost = records.pop_changes(full=False)
    records.put_claim(claim("a", ClaimState.COMMITTED))
    records.restore(lost)
    again = records.pop_changes(full=False)
    assert states(again) == {"a": "committed", "gone": "released"}
    assert [entry.task_id for entry in again.holds] == ["h"]


def test_records_report_a_committed_claim_as_settled_when_closed():
    """Aluma may still list a task that was completed a moment ago; a released one is free at once."""
    records, clock = make_records()
    for task_id, state in {"c": ClaimState.COMMITTED, "f": ClaimState.FAILING, "x": ClaimState.CLAIMED}.items():
        records.put_claim(claim(task_id, state))
        records.close(task_id)
    clock.now = 5.0
    changes = records.pop_changes(full=True)
    assert states(changes) == {"c": "settled", "f": "settled", "x": "released"}
    assert {entry.task_id: entry.remaining for entry in changes.claims if entry.state == "settled"} == {
        "c": 55,
        "f": 55,
    }
    records.confirm(changes)
    assert records.pop_changes(full=True).claims == ()


def test_records_contain_the_age_and_the_rest_of_a_lease():
    records, clock = make_records()
    records.put_claim(claim("a", ClaimState.CLAIMED, at=10.0))
    unconfirmed = Timestamp("boot", 40.0, 1e9 + 40.0)
    records.put_claim(claim("b", ClaimState.ORPHANED, at=10.0, start_unconfirmed_at=unconfirmed))
    clock.now = 110.0
    first, second = records.pop_changes(full=False).claims
    assert (first.age, first.remaining, first.unconfirmed_age) == (100, 1700, None)
    assert (second.age, second.remaining, second.unconfirmed_age) == (100, 1700, 70)


def test_records_report_an_ended_claim_with_a_late_start_as_unconfirmed():
    records, clock = make_records()
    records.put_claim(ClaimRecord("t", ClaimState.ORPHANED, NO_LEASE, start_unconfirmed_at=clock()))
    clock.now = 100.0
    (entry,) = records.pop_changes(full=False).claims
    assert (entry.state, entry.remaining, entry.unconfirmed_age) == (RecordState.UNCONFIRMED, 1400, 100)


def test_records_ignore_lost_claims_until_their_tasks_start_again():
    records, _ = make_records()
    records.put_claim(claim("t", ClaimState.CLAIMED))
    records.pop_changes(full=False)
    records.ownership.lose(["t"])
    records.forget(["t"])
    records.put_claim(claim("t", ClaimState.COMMITTED))
    assert records.pop_changes(full=True).claims == ()
    records.put_claim(claim("t", ClaimState.STARTING))
    assert states(records.pop_changes(full=False)) == {"t": "starting"}
    assert "t" not in records.ownership.lost


def test_records_drop_queued_tasks_that_the_node_does_not_have():
    records, _ = make_records()
    records.put_queued("ab")
    records.put_claim(claim("c", ClaimState.CLAIMED))
    records.drop_queued(lambda task_id: task_id == "a")
    assert states(records.pop_changes(full=True)) == {"a": "queued", "b": "released", "c": "claimed"}


def test_records_do_not_report_a_hold_of_another_node():
    """Nodes would otherwise report it to each other without end."""
    records, clock = make_records()
    clock.now = 50.0
    (merged,), _ = records.receive_holds([FleetHold("h", 20.0, hold("h", at=3.0, failures=2))])
    assert merged == hold("h", at=30.0, failures=2), "it began 20 seconds ago on this machine"
    records.put_hold(merged)
    assert records.pop_changes(full=True).holds == ()
    records.put_hold(hold("h", at=50.0, failures=3))
    assert [entry.record.failures for entry in records.pop_changes(full=False).holds] == [3]


def test_records_do_not_report_the_end_of_a_hold_that_another_node_ended():
    records, clock = make_records()
    records.put_hold(hold("h"))
    records.pop_changes(full=False)
    assert records.receive_holds([FleetHold("h", 0.0)]) == ([], ["h"])
    records.end_hold("h")
    assert records.pop_changes(full=False).holds == ()
    records.put_hold(hold("h"))
    records.pop_changes(full=False)
    records.end_hold("h")
    clock.now = 4.0
    (ended,) = records.pop_changes(full=False).holds
    assert ended == FleetHold("h", 4.0)


def test_records_report_all_holds_again_when_the_store_forgot_them():
    records, _ = make_records()
    for number in range(1500):
        records.put_hold(hold(f"h{number}"))
    records.pop_changes(full=False)
    records.pop_changes(full=False)
    assert records.pop_changes(full=False).holds == ()
    records.resend_holds()
    assert [len(records.pop_changes(full=False).holds) for _ in range(3)] == [1000, 500, 0]
