"""``MemoryDestination`` keeps the contract of a destination."""

import anyio

from aluma_async.testing import MemoryDestination, check_destination


def test_memory_destination_keeps_the_contract():
    destination = MemoryDestination()

    def visible():
        return [content for task_id in destination.tasks for content in destination.contents(task_id)]

    anyio.run(check_destination, lambda: destination, visible)
