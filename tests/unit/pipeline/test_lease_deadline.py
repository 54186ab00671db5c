"""The limit of a claim's lease, which also counts the time of a suspension."""

import asyncio
import contextvars
import threading

import pytest

from aluma_async.exceptions import DestinationError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask, Timestamp
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.ports import CHECK_LEASE
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time

CLAIM = Claim(ExportTask("t"), ExportSpec((ExportFile(0, 0, "", "a", "content", "text"),)), 0.0)


class Clock:
    """A clock that stands still but for a suspension of ``suspended`` seconds. Any thread may use it."""

    suspended = 0.0

    def __call__(self):
        return Timestamp("boot", self.suspended, 0.0)


async def claimed(clock):
    """Return the deadline of a claim whose lease takes 1800 seconds, and its tracker."""
    claims = ClaimTracker(MemoryJournal(), clock, 1800.0)
    await claims.record_intent("t")
    return LeaseDeadline(claims, 1800.0), claims


@virtual_time
async def test_check_of_a_claim_raises_after_a_suspension():
    """In any thread, and also when the claim has been closed."""
    clock = Clock()
    deadline, claims = await claimed(clock)
    check = deadline.check_of(CLAIM)
    clock.suspended = 1499.0
    check()
    clock.suspended = 1500.0
    errors = []

    def run():
        try:
            check()
        except DestinationError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "export took longer than 1500 s" in str(errors)
    clock.suspended = 0.0
    claims.close("t", deleted=True)
    with pytest.raises(DestinationError, match="export took longer"):
        check()


@virtual_time
async def test_transfer_passes_the_check_of_the_lease_to_the_destination():
    """Only while the claim is delivered: nothing else of the worker depends on this lease."""
    clock = Clock()
    deadline, _ = await claimed(clock)
    checks = []

    class Destination(MemoryDestination):
        def open(self, claim):
            checks.append(CHECK_LEASE.get())
            return super().open(claim)

    transfer = FileTransfer(None, lease_check=deadline.check_of, on_event=lambda _: None)
    await transfer.deliver(CLAIM, Destination())
    checks[0]()
    clock.suspended = 1500.0
    with pytest.raises(DestinationError, match="export took longer"):
        checks[0]()
    with pytest.raises(DestinationError, match="export took longer"):
        await transfer.deliver(CLAIM, Destination())
    assert contextvars.copy_context().get(CHECK_LEASE) is None


@pytest.mark.parametrize("error", [None, DestinationError("refused")], ids=["success", "error"])
@virtual_time
async def test_cancellation_that_a_step_leaves_behind_is_raised_at_its_end(error):
    """Otherwise it would hit the next task of the worker."""
    deadline, _ = await claimed(Clock())

    async def cancel_own_task(_):
        asyncio.current_task().cancel()
        if error:
            raise error

    with pytest.raises(asyncio.CancelledError):
        await deadline.run(cancel_own_task, CLAIM)
    asyncio.current_task().uncancel()
