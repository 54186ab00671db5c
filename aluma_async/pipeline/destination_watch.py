"""``DestinationWatch``: cancels the steps of a delivery in which a destination makes no progress.

A destination of another party may wait for ever, and even ignore a cancellation. Then its worker is replaced, so that
the tasks of other workers go on; the task stays claimed until the destination returns, or its lease expires.

Many destinations upload at the commit, which shows no progress until its end. So a step gets the time that a slow line
needs, whether it is shared by all uploads, or serves one after the other.

A look at all steps at regular intervals costs less than a timer for each of them.
"""

import asyncio
from collections.abc import Callable

from aluma_async.events import BytesReceived
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import Claim
from aluma_async.ports import OnEvent

LOOKS = 10
"""Number of looks without progress after which a step is cancelled, if there are no files to store."""
FILE_BYTES = 64 * 1024
"""Number of bytes as which a file counts in addition to its size, because a slow server needs up to a second for it."""
_REPLACE_LOOKS = 2  # after the cancellation
_BYTES_PER_SECOND = 64 * 1024
"""Lowest speed of the line to a destination, for all uploads together: half of 1 Mbit/s."""


class WatchedStep:
    """A step of a delivery. The attributes have their values in the class, so that a step costs no call."""

    running: "asyncio.Task[object] | None" = None
    """The asyncio task that is cancelled."""
    is_at_destination = True
    """Whether the destination is to make progress next, and not the exporter."""
    looks = 0
    """Number of looks since the last progress."""
    total = 0
    """Bytes that the destination has received."""
    limit = 0.0
    """Seconds without progress after which the step is cancelled."""
    claim: Claim | None = None
    """The claim whose files are stored."""
    delivery: "WatchedStep | None" = None
    """The step of the delivery to which a download belongs. The worker of both is the same."""
    cancellations = 0
    """Number of cancellations without an effect so far."""
    subject = "the destination"
    """What must make progress, as the subject of an error message."""
    is_replaced = False
    """Whether another worker was started in place of this one."""


class DestinationWatch:
    """Cancels steps without progress for ``seconds``, longer while large or many files are stored.

    Args:
        seconds: The limit of a step without files.
        max_seconds: The limit of a step with any files: the time after which the lease has expired.
        on_event: Receives ``BytesReceived`` with a count of 0 while a step has longer than ``seconds``. Otherwise its
            task would count as stuck, and the service be restarted.
        replace: Starts another worker; returns False if too many were started.
        give_back: Called when the destination has returned to a worker that was replaced.
    """

    def __init__(
        self,
        seconds: float,
        replace: Callable[[], bool] = lambda: False,
        give_back: Callable[[], None] = lambda: None,
        *,
        max_seconds: float = float("inf"),
        on_event: OnEvent = lambda _: None,
    ) -> None:
        self.steps: dict[WatchedStep, None] = {}
        """The steps that are watched."""
        self.is_looking = False
        """Whether a look is scheduled. Otherwise the first step needs a call of ``look_later``."""
        self.give_back = give_back
        self._seconds = seconds
        self._max_seconds = max(seconds, max_seconds)
        self._replace = replace
        self._on_event = on_event

    def look_later(self) -> None:
        """Look at the steps after an interval, and again as long as there are some."""
        self.is_looking = True
        asyncio.get_running_loop().call_later(self._seconds / LOOKS, self._look)

    def raise_if_expired(self, step: WatchedStep) -> None:
        """Raise ``DestinationUnavailable`` after a ``CancelledError`` that the watch has caused."""
        if step.cancellations and step.running:
            for _ in range(step.cancellations):
                step.running.uncancel()
            step.cancellations = 0
            raise DestinationUnavailable(
                f"{step.subject} did not respond for {step.limit:.0f} s",
                hint=f"Check {step.subject}. If it is only slow, set a longer stuck_after_seconds.",
            )

    def _look(self) -> None:
        self.is_looking = False
        active = [step for step in self.steps if not step.cancellations]
        total = sum(step.total for step in active)
        for step in list(self.steps):
            if step.is_at_destination and step.running:
                step.looks += 1
                upload_seconds = (total + len(active) * step.total) / _BYTES_PER_SECOND
                limit = min(self._seconds + upload_seconds, self._max_seconds)
                # What others have uploaded meanwhile has taken time, although their steps have ended.
                step.limit = limit if step.looks == 1 else max(limit, step.limit)
                more = step.looks - LOOKS * step.limit / self._seconds
                if more > 0:
                    step.cancellations += 1
                    step.running.cancel()
                elif step.looks >= LOOKS and step.claim and (files := step.claim.spec.files):
                    self._on_event(BytesReceived(step.claim.task, files[0], 0))
                worker = step.delivery or step
                if more > _REPLACE_LOOKS and not worker.is_replaced:
                    worker.is_replaced = self._replace()
        if self.steps:
            self.look_later()
