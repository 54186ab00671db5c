"""``DestinationProbe``: tests whether a destination accepts files, once for all workers that ask at the same time."""

import anyio

from aluma_async.exceptions import AlumaAsyncError, DestinationUnavailable
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.ports import Destination

TIMEOUT_SECONDS = 60.0
"""Seconds after which a probe without a result counts as failed. A worker holds its claim meanwhile."""


class DestinationProbe:
    """Probes ``destination``. A probe serves all callers that were waiting when it began."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._lock = anyio.Lock(fast_acquire=True)
        self._probes = 0
        self._error: AlumaAsyncError | None = None

    async def run(self) -> None:
        """Probe the destination. Raises the error of the probe."""
        earlier = self._probes
        async with self._lock:
            if self._probes == earlier:
                self._probes += 1
                self._error = await self._probe()
        if self._error:
            raise self._error

    async def accepts_files(self) -> bool:
        """Return whether the destination accepts files now."""
        try:
            await self.run()
        except AlumaAsyncError:
            return False
        return True

    async def _probe(self) -> AlumaAsyncError | None:
        try:
            with anyio.fail_after(TIMEOUT_SECONDS):
                await self._destination.probe()
        except AlumaAsyncError as error:
            return error
        except TimeoutError:
            return DestinationUnavailable(f"the destination did not answer a probe in {TIMEOUT_SECONDS:.0f} s")
        except BaseException as error:
            if defect := plugin_defect(error):
                return DestinationUnavailable(f"the probe of the destination failed: {defect}")
            raise
        return None
