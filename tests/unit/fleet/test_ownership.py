"""``Ownership``: the situations in which Cancel and Fail are allowed."""

from aluma_async.fleet.ownership import DOUBT_SECONDS, Ownership
from aluma_async.models import Timestamp
from aluma_async.policy.liveness import SILENCE_SECONDS


def at(boottime, wall=None):
    return Timestamp("boot", boottime, 1e9 + (boottime if wall is None else wall))


def connected_with(*shared):
    """Return the state of a node whose claims were reported at time 0."""
    ownership = Ownership()
    ownership.shared.update(shared)
    ownership.confirm(at(0), 0.0, lost_data=False)
    return ownership


def test_ownership_is_proven_within_the_silence_that_a_takeover_needs():
    ownership = connected_with("t")
    assert ownership.is_proven("t", at(SILENCE_SECONDS - 0.1))
    assert not ownership.is_proven("t", at(SILENCE_SECONDS))


def test_ownership_counts_time_of_suspension():
    """The clock that has gone further counts: a hypervisor may stop one of them."""
    ownership = connected_with("t")
    assert not ownership.is_proven("t", at(1.0, wall=600.0))


def test_ownership_of_a_claim_that_was_never_reported_needs_no_proof():
    assert connected_with().is_proven("own", at(1000))
    assert Ownership().is_proven("own", at(0))


def test_ownership_of_a_loaded_claim_needs_a_report():
    ownership = Ownership()
    ownership.shared.add("t")
    assert not ownership.is_proven("t", at(0))


def test_ownership_is_proven_by_the_next_report_after_a_silence():
    """In the same epoch, a takeover would be known."""
    ownership = connected_with("t")
    ownership.disconnect()
    ownership.confirm(at(100), 100.0, lost_data=False)
    assert ownership.is_proven("t", at(101))


def test_ownership_is_doubtful_after_a_silence_and_lost_data():
    ownership = connected_with("t")
    ownership.disconnect()
    ownership.confirm(at(100), 100.0, lost_data=True)
    for seconds in (1.0, DOUBT_SECONDS - 0.1):
        ownership.confirm(at(100 + seconds), 100.0 + seconds, lost_data=False)
        assert not ownership.is_proven("t", at(100 + seconds))
    ownership.confirm(at(100 + DOUBT_SECONDS), 100.0 + DOUBT_SECONDS, lost_data=False)
    assert ownership.is_proven("t", at(100 + DOUBT_SECONDS))


def test_ownership_stays_doubtful_when_the_connection_breaks():
    ownership = connected_with("t")
    ownership.confirm(at(100), 100.0, lost_data=True)
    ownership.disconnect()
    ownership.confirm(at(102), 102.0, lost_data=False)
    ownership.confirm(at(104), 104.0, lost_data=False)
    assert not ownership.is_proven("t", at(104))
    ownership.confirm(at(105), 105.0, lost_data=False)
    assert ownership.is_proven("t", at(105))


def test_ownership_stays_proven_when_data_is_lost_without_a_silence():
    ownership = connected_with("t")
    ownership.confirm(at(2), 2.0, lost_data=True)
    assert ownership.is_proven("t", at(3))


def test_ownership_of_a_new_claim_is_not_doubtful():
    ownership = connected_with("t")
    ownership.confirm(at(100), 100.0, lost_data=True)
    ownership.shared.add("new")
    assert ownership.is_proven("new", at(101))


def test_ownership_of_a_lost_claim_is_never_proven():
    ownership = connected_with("t")
    ownership.lose(["t", "unknown"])
    ownership.confirm(at(1), 1.0, lost_data=False)
    assert not ownership.is_proven("t", at(1))
    assert ownership.lost == {"t"}
    ownership.forget("t")
    assert ownership.is_proven("t", at(1))
