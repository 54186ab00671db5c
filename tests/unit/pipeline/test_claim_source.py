"""``ClaimTrackingSource``: what a refusal means, and which claims are settled only after a look at the task's state."""

import anyio
import pytest

from aluma_async.exceptions import (
    Ambiguous,
    ClaimConflict,
    DestinationError,
    InvalidResponse,
    RequestRejected,
    SourceError,
    Unavailable,
)
from aluma_async.models import ClaimState, TaskState
from aluma_async.pipeline.claim_source import CopyLost
from aluma_async.policy.lease import LATE_START_SECONDS
from tests.support.claims import TASK, Parts
from tests.support.clock import virtual_time


@pytest.mark.parametrize(
    ("verb", "state", "executed"),
    [
        ("complete", None, True),
        ("complete", "completed", True),
        ("complete", "running", True),
        ("complete", "failed", False),
        ("complete", "timed-out", False),
        ("complete", "queued", False),
        ("complete", TaskState.PENDING, False),
        ("complete", TaskState.CLAIMED, False),
        ("fail", None, True),
        ("fail", "failed", True),
        ("fail", "running", True),
        ("fail", "completed", False),
        ("fail", TaskState.PENDING, False),
        ("cancel", TaskState.PENDING, True),
        ("cancel", None, True),
        ("cancel", "queued", True),
        ("cancel", TaskState.CLAIMED, False),
    ],
)
@virtual_time
async def test_refusal_after_an_unconfirmed_settlement_is_judged_by_the_state(verb, state, executed):
    """Only the state shows whether the first request was executed, or the claim has ended without it."""
    parts = Parts(**{verb: [Ambiguous("lost"), ClaimConflict("409")], "state": [state]})
    await parts.source.start(TASK)
    with pytest.raises(Ambiguous):
        await parts.settle(verb)
    if executed:
        await parts.settle(verb)
    else:
        with pytest.raises(ClaimConflict):
            await parts.settle(verb)
    assert parts.replies.sent == ["start", verb, verb, "state"]
    assert parts.claims.get("t") is None


@pytest.mark.parametrize("unknown", [Unavailable("503"), RequestRejected("403")])
@virtual_time
async def test_claim_stays_open_while_its_state_is_unknown(unknown):
    """Nothing more is sent meanwhile, because it could hit a claim of another exporter."""
    parts = Parts(complete=[Ambiguous("lost"), ClaimConflict("409")], state=[unknown, None])
    await parts.source.start(TASK)
    for error in (Ambiguous, type(unknown)):
        with pytest.raises(error):
            await parts.source.complete(TASK)
        assert parts.claims.get("t")
    await parts.source.complete(TASK)
    assert parts.claims.get("t") is None


@pytest.mark.parametrize("verb", ["complete", "cancel", "fail"])
@virtual_time
async def test_undocumented_state_proves_nothing(verb):
    """It may come from a proxy. The claim stays open, and its state is read again, before anything else is sent."""
    states = ["maintenance", "", "maintenance", TaskState.CLAIMED]
    parts = Parts(**{verb: [Ambiguous("lost"), ClaimConflict("409")], "state": states})
    await parts.source.start(TASK)
    with pytest.raises(Ambiguous):
        await parts.settle(verb)
    for _ in range(3):
        with pytest.raises(InvalidResponse, match="unknown state"):
            await parts.settle(verb)
        assert parts.claims.count_unsettled() == 1
    with pytest.raises(ClaimConflict):
        await parts.settle(verb)
    assert parts.replies.sent == ["start", verb, verb, *["state"] * 4]


@virtual_time
async def test_undocumented_state_keeps_a_claim_whose_lease_may_have_ended():
    parts = Parts(complete=[None], state=["maintenance", TaskState.CLAIMED])
    await parts.source.start(TASK)
    await anyio.sleep(1600)
    with pytest.raises(InvalidResponse):
        await parts.source.complete(TASK)
    assert parts.claims.count_unsettled() == 1
    await parts.source.complete(TASK)
    assert parts.replies.sent == ["start", "state", "state", "complete"]


@virtual_time
async def test_refusal_of_the_first_settlement_needs_no_look_up():
    parts = Parts(complete=[ClaimConflict("409")])
    await parts.source.start(TASK)
    with pytest.raises(ClaimConflict):
        await parts.source.complete(TASK)
    assert parts.replies.sent == ["start", "complete"]


@pytest.mark.parametrize("state", [TaskState.CLAIMED, None, "maintenance", Unavailable("503"), RequestRejected("403")])
@pytest.mark.parametrize("verb", ["complete", "cancel", "fail"])
@virtual_time
async def test_rejected_settlement_keeps_the_claim(verb, state):
    """Unless a state shows the contrary: a missing state may only mean that look-ups are rejected, too."""
    parts = Parts(**{verb: [RequestRejected("403")], "state": [state]})
    await parts.source.start(TASK)
    await parts.claims.record_committed("t", 1, 1)
    with pytest.raises(RequestRejected):
        await parts.settle(verb)
    assert parts.claims.get("t").state is ClaimState.COMMITTED
    assert parts.claims.count_unsettled() == 1


@pytest.mark.parametrize("state", [TaskState.PENDING, "running"])
@pytest.mark.parametrize("verb", ["complete", "cancel", "fail"])
@virtual_time
async def test_rejected_settlement_ends_the_claim_if_the_state_does(verb, state):
    """The request was executed, and a proxy replaced the response; or the claim had ended, if the task is pending."""
    parts = Parts(**{verb: [RequestRejected("403")], "state": [state, state]})
    await parts.source.start(TASK)
    if state == "running" or verb == "cancel":
        await parts.settle(verb)
    else:
        with pytest.raises(ClaimConflict):
            await parts.settle(verb)
    assert parts.claims.get("t") is None
    assert parts.replies.sent == ["start", verb, "state", "state"]


@virtual_time
async def test_rejected_start_leaves_a_claim_to_look_up():
    """A proxy may have blocked only the response. A Cancel is sent only if the state shows a claim."""
    parts = Parts(start=[RequestRejected("403")], state=[TaskState.PENDING, TaskState.CLAIMED], cancel=[None])
    with pytest.raises(RequestRejected):
        await parts.source.start(TASK)
    assert parts.claims.get("t").state is ClaimState.ORPHANED
    assert not parts.claims.may_hold_claim("t"), "so that the task is tried again"
    with pytest.raises(ClaimConflict):
        await parts.source.cancel(TASK)
    await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "state", "state", "cancel"]


@virtual_time
async def test_refused_start_keeps_the_claim_of_an_earlier_one_without_a_reply():
    """The refusal shows that the task is claimed, perhaps by the earlier Start."""
    parts = Parts(start=[Ambiguous("lost"), ClaimConflict("409")], state=[TaskState.CLAIMED], cancel=[None])
    with pytest.raises(Ambiguous):
        await parts.source.start(TASK)
    parts.claims.close("t")
    await anyio.sleep(LATE_START_SECONDS + 60)
    with pytest.raises(ClaimConflict):
        await parts.source.start(TASK)
    await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "start", "state", "cancel"]


@virtual_time
async def test_every_fail_is_sent_only_while_its_copy_is_there():
    """Also a repeated one: the quarantine may have been removed meanwhile. Then the claim must be cancelled."""
    held = [True, DestinationError("not mounted"), True, False]
    asked = []

    async def has_copy(*arguments):
        asked.append(arguments)
        answer = held.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    parts = Parts(fail=[Unavailable("503"), Unavailable("503")], cancel=[None])
    parts.source.has_copy = has_copy
    await parts.source.start(TASK)
    await parts.claims.record_failing("t", "m", "receipt")
    for error in (Unavailable, SourceError, Unavailable, CopyLost):
        with pytest.raises(error):
            await parts.source.fail(TASK, "m")
    assert parts.claims.get("t").state is ClaimState.ORPHANED
    await parts.source.cancel(TASK)
    assert asked == [("t", "receipt")] * 4
    assert parts.replies.sent == ["start", "fail", "fail", "cancel"]
