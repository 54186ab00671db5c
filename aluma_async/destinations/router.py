"""``DestinationRouter``: a ``Destination`` over several: each file goes to the destinations of its route."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from aluma_async.exceptions import primary_error
from aluma_async.models import Claim, ExportFile, ExportSpec
from aluma_async.policy.routing import Routing
from aluma_async.ports import Delivery, Destination

_MOST_REMEMBERED = 10_000


class DestinationRouter:
    """Passes the files of a task on to ``destinations``, by name, as ``routing`` selects them.

    The destinations commit one after the other. If one of them fails, those before it already have the task's files:
    the task is released, and its next attempt replaces them.
    """

    def __init__(self, destinations: Mapping[str, Destination], routing: Routing) -> None:
        self._destinations = destinations
        self._routing = routing
        self._committed: dict[str, tuple[str, ...]] = {}

    @property
    def routing(self) -> Routing:
        """The routing of claims that are opened from now on."""
        return self._routing

    def set_routing(self, routing: Routing) -> None:
        """Change the routing; deliveries that are open keep theirs."""
        self._routing = routing

    async def probe(self) -> None:
        """Probe all destinations, because a task may need any of them."""
        for destination in self._destinations.values():
            await destination.probe()

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["RoutedDelivery"]:
        """Open a delivery at every destination of the claim's files, each with its own part of the files.

        Raises ``DestinationError`` if a file has no route.
        """
        names = {file.number: self._routing.destinations_for(claim.task, file) for file in claim.spec.files}
        async with AsyncExitStack() as stack:
            opened: dict[str, Delivery] = {}
            # In reverse order, because the delivery that is opened last commits first.
            for name in reversed(list(self._destinations)):
                if files := tuple(file for file in claim.spec.files if name in names[file.number]):
                    part = replace(claim, spec=ExportSpec(files, claim.spec.received))
                    opened[name] = await stack.enter_async_context(self._destinations[name].open(part))
            yield RoutedDelivery({number: [opened[name] for name in targets] for number, targets in names.items()})
        if len(self._committed) >= _MOST_REMEMBERED:
            del self._committed[next(iter(self._committed))]
        self._committed[claim.task.id] = tuple(name for name in self._destinations if name in opened)

    def went_to(self, task_id: str) -> tuple[str, ...]:
        """Return, once, the destinations at which a task was committed; empty if that is not known."""
        return self._committed.pop(task_id, ())


class RoutedDelivery:
    """The deliveries of each file, by its number."""

    def __init__(self, deliveries: Mapping[int, Sequence[Delivery]]) -> None:
        self._deliveries = deliveries

    def resumable_size(self, file: ExportFile) -> int | None:
        """Return the size that an earlier attempt staged, if it is the same at all destinations of the file."""
        sizes = {delivery.resumable_size(file) for delivery in self._deliveries[file.number]}
        return sizes.pop() if len(sizes) == 1 else None

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file at all its destinations. It is read once, at the speed of the slowest destination."""
        deliveries = self._deliveries[file.number]
        if len(deliveries) == 1:
            return await deliveries[0].save(file, chunks)
        pipes = [anyio.create_memory_object_stream[bytes](1) for _ in deliveries]
        try:
            async with anyio.create_task_group() as group:
                for delivery, (_, receive) in zip(deliveries, pipes, strict=True):
                    group.start_soon(_feed_delivery, delivery, file, receive)
                async for chunk in chunks:
                    for send, _ in pipes:
                        await send.send(chunk)
                for send, _ in pipes:
                    send.close()
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None
        finally:
            for send, receive in pipes:
                send.close()
                receive.close()
        return None


async def _feed_delivery(delivery: Delivery, file: ExportFile, chunks: MemoryObjectReceiveStream[bytes]) -> None:
    async with chunks:
        await delivery.save(file, chunks)
