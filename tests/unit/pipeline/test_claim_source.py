"""``ClaimTrackingSource``: what a refusal means, and which claims are settled only after a look at the task's state."""

import anyio
import msgspec
import pytest

from aluma_async import MemoryJournal
from aluma_async.exceptions import (
    Ambiguous,
    ClaimConflict,
    DestinationError,
    InvalidResponse,
    RequestRejected,
    SourceError,
    Unavailable,
)
from aluma_async.models import Claim, ClaimState, ExportSpec, ExportTask, TaskState
from aluma_async.pipeline.claim_source import ClaimTrackingSource, CopyLost
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.policy.lease import LATE_START_SECONDS, LeaseStatus
from aluma_async.ports import BEFORE_SENDING
from tests.support.clock import virtual_time
from tests.support.world import system_time

TASK = ExportTask("t")


class Replies:
    """A source that replies as planned, and records the requests."""

    def __init__(self, **replies):
        self.replies = {verb: list(planned) for verb, planned in replies.items()}
        self.sent = []

    async def _reply(self, verb):
        self.sent.append(verb)
        reply = self.replies[verb].pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def start(self, task):
        await self._reply("start")
        return Claim(task, ExportSpec(()), anyio.current_time())

    async def complete(self, task):
        await self._reply("complete")

    async def cancel(self, task):
        await self._reply("cancel")

    async def fail(self, task, message):
        await self._reply("fail")

    async def state(self, task):
        return await self._reply("state")


class Parts:
    """A source with a claim of ``TASK``, unless Start is planned to fail."""

    def __init__(self, **replies):
        self.replies = Replies(**{"start": [None], **replies})
        self.claims = ClaimTracker(MemoryJournal(), system_time, 1800.0)
        self.source = ClaimTrackingSource(self.replies, self.claims)

    def settle(self, verb):
        return self.source.fail(TASK, "m") if verb == "fail" else getattr(self.source, verb)(TASK)


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
