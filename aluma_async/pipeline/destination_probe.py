"""``DestinationProbe``: tests whether a destination accepts files, once for all workers that ask at the same time."""

from contextlib import suppress

import anyio

from aluma_async.concurrency.limited_call import LimitedCalls
from aluma_async.exceptions import AlumaAsyncError, DestinationUnavailable
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.ports import Destination

TIMEOUT_SECONDS = 60.0
"""Seconds after which a probe without a result counts as failed. A worker holds its claim meanwhile."""


class DestinationProbe:
    """Probes ``destination``. A probe serves all callers that were waiting when it began."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._calls: LimitedCalls[None] = LimitedCalls()
        self._lock = anyio.Lock(fast_acquire=True)
        self._probes = 0
        self._error: AlumaAsyncError | None = None

    @property
    def covers_several(self) -> bool:
        """Whether some tasks may be exported while others cannot."""
        return len(getattr(self._destination, "names", ())) > 1

    async def run(self) -> None:
        """Probe the destination. Raises the error of the probe."""
        earlier = self._probes
        async with self._lock:
            if self._probes == earlier:
                self._probes += 1
                self._error = await self._probe()
        if self._error:
            raise self._error

    async def find_error(self) -> AlumaAsyncError | None:
        """Probe the destination and return the error of the probe."""
        with suppress(AlumaAsyncError):
            await self.run()
        return self._error

    async def run_in_pause(self) -> None:
        """Probe the destination. Raises the error of the probe, unless some tasks can be exported in spite of it."""
        error = await self.find_error()
        if error and not error.spares_others:
            raise error

    async def _probe(self) -> AlumaAsyncError | None:
        try:
            outcome = await self._calls.run(self._destination.probe, TIMEOUT_SECONDS)
        except TimeoutError:
            return DestinationUnavailable(f"the destination did not answer a probe in {TIMEOUT_SECONDS:.0f} s")
        error = outcome.error
        if error is None or isinstance(error, AlumaAsyncError):
            return error
        if defect := plugin_defect(error):
            return DestinationUnavailable(f"the probe of the destination failed: {defect}")
        raise error
