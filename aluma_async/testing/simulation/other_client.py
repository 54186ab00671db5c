"""``run_as_other_client``: a run on the state of an exporter with the base URL and client of another Aluma.

The other Aluma has no tasks, so such a run must change none: the claims in the journal belong to the first client.
"""

import asyncio
from contextlib import suppress
from typing import Any

from aluma_async.clock import loop_time
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.pipeline.exporter import Exporter
from aluma_async.testing.destination import MemoryDestination
from aluma_async.testing.simulation.invariants import Instance, InvariantChecker
from aluma_async.testing.simulator import SimulatedAluma
from aluma_async.testing.source import SimulatedSource

_RUN_SECONDS = 20.0


class _OtherAluma(SimulatedAluma):
    """An Aluma without tasks, at which every change of a task is a violation."""

    checker: InvariantChecker

    def start(self, task_id: str) -> bytes:
        self._violate("start", task_id)
        return super().start(task_id)

    def complete(self, task_id: str) -> None:
        self._violate("complete", task_id)
        super().complete(task_id)

    def cancel(self, task_id: str) -> None:
        self._violate("cancel", task_id)
        super().cancel(task_id)

    def fail(self, task_id: str, message: str) -> None:
        self._violate("fail", task_id)
        super().fail(task_id, message)

    def _violate(self, verb: str, task_id: str) -> None:
        self.checker.require(False, f"{verb} {task_id} is sent to another Aluma than the one that has the task")


async def run_as_other_client(instance: Instance, settings: dict[str, Any]) -> None:
    """Run an exporter for some seconds. Its state is that of ``instance``, whose process has ended."""
    instance.kill_at_point = 0
    aluma = _OtherAluma(0, now=loop_time)
    aluma.checker = instance.checker
    exporter = Exporter(
        SimulatedSource(aluma),
        MemoryDestination(),
        journal=instance.journal,
        **{**settings, "source_id": "other client"},
    )
    asyncio.get_running_loop().call_later(_RUN_SECONDS, exporter.stop)
    with suppress(AlumaAsyncError):  # the journal may be broken
        await exporter.run()
    instance.checker.counts["runs as another client"] += 1
