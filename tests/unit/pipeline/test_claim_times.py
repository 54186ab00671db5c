"""``ClaimTrackingSource``: waits, suspensions and late requests, which may outlast the lease of a claim."""

import anyio
import msgspec
import pytest

from aluma_async import MemoryJournal
from aluma_async.exceptions import (
    Ambiguous,
    ClaimConflict,
    Unavailable,
)
from aluma_async.models import TaskState
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.policy.lease import LATE_START_SECONDS, LeaseStatus
from aluma_async.ports import BEFORE_SENDING
from tests.support.claims import TASK, Parts, Replies
from tests.support.clock import virtual_time
from tests.support.world import system_time


class Waiting(Replies):
    """A source that waits for a permit or a token before it sends a settlement."""

    wait = 0.0

    async def complete(self, task):
        await anyio.sleep(self.wait)
        BEFORE_SENDING.get()()
        await super().complete(task)


@virtual_time
async def test_settlement_is_not_sent_after_it_had_to_wait_for_the_end_of_the_lease():
    """Otherwise it would hit the claim of another exporter. While the lease may be valid, the state is read first."""
    parts = Parts()
    waiting = Waiting(start=[None, None], state=[TaskState.CLAIMED], complete=[None])
    source = ClaimTrackingSource(waiting, parts.claims)
    await source.start(TASK)
    waiting.wait = 1_600.0
    with pytest.raises(Unavailable, match="had to wait"):
        await source.complete(TASK)
    waiting.wait = 10.0
    await source.complete(TASK)
    assert waiting.sent == ["start", "state", "complete"]
    await source.start(TASK)
    waiting.wait = 1_900.0
    with pytest.raises(ClaimConflict, match="expired"):
        await source.complete(TASK)
    assert waiting.sent == ["start", "state", "complete", "start"]


class Suspension:
    """A clock that goes on while the event loop's stands still."""

    def __init__(self):
        self.boot = self.wall = 0.0

    def __call__(self):
        now = system_time()
        return msgspec.structs.replace(now, boottime=now.boottime + self.boot, wall=now.wall + self.boot + self.wall)


@virtual_time
async def test_suspension_while_start_is_in_flight_counts_for_the_lease():
    clock = Suspension()
    claims = ClaimTracker(MemoryJournal(), clock, 1800.0)

    class Suspended(Replies):
        async def start(self, task):
            clock.boot += 2_000.0
            return await super().start(task)

    source = ClaimTrackingSource(Suspended(start=[None]), claims)
    await source.start(TASK)
    assert claims.age("t") >= 2_000.0
    with pytest.raises(ClaimConflict, match="expired"):
        await source.complete(TASK)


@pytest.mark.parametrize("suspend", ["boot", "wall"], ids=["suspended", "paused by a hypervisor"])
@virtual_time
async def test_age_of_a_claim_is_that_of_the_clock_that_has_gone_further(suspend):
    clock = Suspension()
    claims = ClaimTracker(MemoryJournal(), clock, 1800.0)
    await ClaimTrackingSource(Replies(start=[None]), claims).start(TASK)
    setattr(clock, suspend, 2_000.0)
    assert claims.lease_status("t") is LeaseStatus.EXPIRED
    clock.wall = -3_000.0 if suspend == "boot" else 2_000.0
    assert claims.lease_status("t") is LeaseStatus.EXPIRED


@pytest.mark.parametrize("first", [None, ClaimConflict("409")], ids=["confirmed", "refused"])
@virtual_time
async def test_late_cancel_is_sent_only_for_a_claim_that_the_state_shows(first):
    """Once Cancel was answered, only a late Start can have made another claim; any other is another exporter's."""
    states = [TaskState.PENDING, None, TaskState.CLAIMED]
    parts = Parts(start=[Ambiguous("lost")], cancel=[first, None], state=states)
    with pytest.raises(Ambiguous):
        await parts.source.start(TASK)
    try:
        await parts.source.cancel(TASK)
    except ClaimConflict:
        assert first
    assert parts.claims.get("t"), "a late Start may still be executed"
    for _ in range(2):
        with pytest.raises(ClaimConflict):
            await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "cancel", "state", "state"]
    await parts.source.cancel(TASK)
    assert parts.replies.sent[-2:] == ["state", "cancel"]
    await anyio.sleep(LATE_START_SECONDS + 1)
    parts.replies.replies["state"] = [TaskState.PENDING]
    with pytest.raises(ClaimConflict):
        await parts.source.cancel(TASK)
    assert parts.claims.get("t") is None


@virtual_time
async def test_claim_of_a_late_start_is_cancelled_although_an_earlier_cancel_was_refused():
    """The refusal came before the late Start; the state, which could not be read meanwhile, shows its claim."""
    parts = Parts(
        start=[Ambiguous("lost")],
        cancel=[Ambiguous("lost"), ClaimConflict("409"), None],
        state=[Unavailable("503"), TaskState.CLAIMED, TaskState.CLAIMED],
    )
    for error, action in ((Ambiguous, parts.source.start), (Ambiguous, parts.source.cancel)):
        with pytest.raises(error):
            await action(TASK)
    with pytest.raises(Unavailable):
        await parts.source.cancel(TASK)
    await anyio.sleep(LATE_START_SECONDS + 60)
    with pytest.raises(ClaimConflict):
        await parts.source.cancel(TASK)
    await parts.source.cancel(TASK)
    assert parts.replies.sent == ["start", "cancel", "cancel", "state", "state", "state", "cancel"]
    assert parts.claims.get("t") is None


@pytest.mark.parametrize("verb", ["complete", "cancel", "fail"])
@virtual_time
async def test_check_before_sending_ends_with_its_request(verb):
    """A later request of the same worker must not be checked for an earlier claim."""
    parts = Parts(**{verb: [None]})
    await parts.source.start(TASK)
    before = BEFORE_SENDING.get()
    await parts.settle(verb)
    assert BEFORE_SENDING.get() is before
