"""``MemoryDestination`` keeps the contract of a destination."""

from aluma_async.testing import MemoryDestination, check_destination
from tests.support.clock import virtual_time


@virtual_time
async def test_memory_destination_keeps_the_contract():
    destination = MemoryDestination()

    def visible():
        return [content for task_id in destination.tasks for content in destination.contents(task_id)]

    await check_destination(lambda: destination, visible)
