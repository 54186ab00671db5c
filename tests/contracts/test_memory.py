"""``MemoryDestination`` keeps the contract of a destination."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async.testing import MemoryDestination, check_destination


def test_memory_destination_keeps_the_contract():
    destination = MemoryDestination()

    def visible():
        return [content for task_id in destination.tasks for content in destination.contents(task_id)]

    anyio.run(check_destination, lambda: destination, visible)


class RestoringDestination(MemoryDestination):
    """Undoes a delivery by what the task had before, whoever has stored files since."""

    @asynccontextmanager
    async def open(self, claim):
        before = self.tasks.get(claim.task.id, {})
        try:
            async with super().open(claim) as delivery:
                yield delivery
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self.tasks[claim.task.id] = before
            raise


def test_contract_refuses_a_roll_back_that_undoes_another_delivery():
    destination = RestoringDestination()

    def visible():
        return [content for files in destination.tasks.values() for content in files.values()]

    with pytest.raises(AssertionError, match="leaves the files that another delivery of the task has committed"):
        anyio.run(check_destination, lambda: destination, visible)
