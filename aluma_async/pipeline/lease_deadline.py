"""``LeaseDeadline``: ends a step that would outlast the lease of its claim."""

from asyncio import current_task, sleep
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.policy.lease import SAFE_LEASE_FRACTION

T = TypeVar("T")


class LeaseDeadline:
    """Runs steps while a lease is certainly valid; ``claim_timeout`` is the length of Aluma's lease in seconds."""

    def __init__(self, claims: ClaimTracker, claim_timeout: float) -> None:
        self._claims = claims
        self.seconds = claim_timeout * SAFE_LEASE_FRACTION
        """Time after which a lease may have expired."""
        self._deadline = SharedDeadline(self.seconds)

    async def run(self, step: Callable[..., Awaitable[T]], claim: Claim, *args: object) -> T:
        """Run a step of a claim; cancel it and raise ``DestinationError`` if the lease may expire before its end."""
        with self._deadline.scope(claim.sent_at):
            try:
                return await step(claim, *args)
            finally:
                if (running := current_task()) and running.cancelling():
                    await sleep(0)  # a plug-in's cancellation is raised here, so that it hits no later task
        raise self._exceeded()

    def check_of(self, claim: Claim) -> Callable[[], None]:
        """Return a function, for any thread, that raises ``DestinationError`` if the lease may have expired.

        The deadline does not notice a suspension of the machine, because the event loop's clock stands still meanwhile,
        nor can it interrupt a thread.
        """
        return partial(self._check, claim.task.id)

    def _check(self, task_id: str) -> None:
        if self._claims.age(task_id) >= self.seconds:
            raise self._exceeded()

    def _exceeded(self) -> DestinationError:
        return DestinationError(
            f"export took longer than {self.seconds:.0f} s; after that Aluma may reassign the task",
            hint="Set fewer workers, or a longer claim_timeout_seconds if Aluma's lease is longer.",
        )
