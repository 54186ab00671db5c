"""``ClaimTrackingSource``: a source of a plug-in that raises anything, and the claims that a refusal leaves open."""

import pytest

from aluma_async.exceptions import Ambiguous, ClaimConflict, Unavailable
from aluma_async.pipeline.claim_source import CopyLost
from tests.support.clock import virtual_time
from tests.unit.pipeline.test_claim_source import TASK, Parts

DEFECT = ZeroDivisionError("division by zero")


@virtual_time
async def test_start_with_a_defect_leaves_a_claim_to_recovery():
    """It may have been executed, and its claim is cancelled."""
    parts = Parts(start=[DEFECT], cancel=[None])
    with pytest.raises(Ambiguous, match="start task t: unexpected ZeroDivisionError") as caught:
        await parts.source.start(TASK)
    assert "division" not in str(caught.value)
    assert parts.claims.get("t").start_unconfirmed_at
    assert parts.claims.may_hold_claim("t")
    await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "cancel"]


@pytest.mark.parametrize("verb", ["complete", "cancel", "fail"])
@virtual_time
async def test_settlement_with_a_defect_may_have_been_executed(verb):
    """A refusal after it is judged by the state of the task."""
    parts = Parts(**{verb: [DEFECT, ClaimConflict("409")], "state": [None]})
    await parts.source.start(TASK)
    with pytest.raises(Ambiguous, match="settle task t: unexpected ZeroDivisionError"):
        await parts.settle(verb)
    await parts.settle(verb)
    assert parts.replies.sent == ["start", verb, verb, "state"]
    assert parts.claims.get("t") is None


@virtual_time
async def test_next_claim_is_settled_without_a_look_at_the_state():
    """The look was necessary only for the earlier claim, whose settlement had been refused."""
    parts = Parts(
        start=[None, None], complete=[Ambiguous("lost"), ClaimConflict("409"), None], state=[Unavailable("503")]
    )
    await parts.source.start(TASK)
    for error in (Ambiguous, Unavailable):
        with pytest.raises(error):
            await parts.source.complete(TASK)
    await parts.source.start(TASK)
    await parts.source.complete(TASK)
    assert parts.replies.sent == ["start", "complete", "complete", "state", "start", "complete"]


@virtual_time
async def test_fail_is_not_sent_without_a_quarantine():
    """An earlier process had one. Its copy cannot be checked, so that the claim is cancelled."""
    parts = Parts(cancel=[None])
    await parts.source.start(TASK)
    await parts.claims.record_failing("t", "m", "receipt")
    with pytest.raises(CopyLost):
        await parts.source.fail(TASK, "m")
    await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "cancel"]
