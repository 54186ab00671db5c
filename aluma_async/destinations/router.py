"""``DestinationRouter``: a ``Destination`` over several; files go where their routes say, a task to all or to none."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from aluma_async.exceptions import primary_error
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.ports import Delivery, Destination

_MOST_REMEMBERED = 10_000


class DestinationRouter:
    """Wraps ``destinations``, by name; ``route`` tells the names for a file, and raises if there are none.

    They commit one after the other. If one fails, those before it have the task already: it is given back,
    and the next attempt replaces what they have.
    """

    def __init__(
        self,
        destinations: Mapping[str, Destination],
        route: Callable[[ExportTask, ExportFile], Sequence[str]],
    ) -> None:
        self._destinations = destinations
        self.route = route
        """What is opened from now on goes where this says."""
        self._committed: dict[str, tuple[str, ...]] = {}

    async def probe(self) -> None:
        """Probe all: a task may need any of them."""
        for destination in self._destinations.values():
            await destination.probe()

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["RoutedDelivery"]:
        """Begin to deliver at every destination that a file of the claim goes to, its own files each."""
        names = {file.number: self.route(claim.task, file) for file in claim.spec.files}
        async with AsyncExitStack() as stack:
            opened: dict[str, Delivery] = {}
            for name in reversed(list(self._destinations)):  # the first is left first, and so commits first
                if files := tuple(file for file in claim.spec.files if name in names[file.number]):
                    part = replace(claim, spec=ExportSpec(files, claim.spec.received))
                    opened[name] = await stack.enter_async_context(self._destinations[name].open(part))
            yield RoutedDelivery({number: [opened[name] for name in to] for number, to in names.items()})
        if len(self._committed) >= _MOST_REMEMBERED:  # nobody asks
            del self._committed[next(iter(self._committed))]
        self._committed[claim.task.id] = tuple(name for name in self._destinations if name in opened)

    def went_to(self, task_id: str) -> tuple[str, ...]:
        """Tell once at which destinations a task was committed; empty if that is not known (any more)."""
        return self._committed.pop(task_id, ())


class RoutedDelivery:
    """``to`` tells by a file's number where it goes."""

    def __init__(self, to: Mapping[int, Sequence[Delivery]]) -> None:
        self._to = to

    def resumable_size(self, file: ExportFile) -> int | None:
        """The size, if it is kept everywhere."""
        sizes = {delivery.resumable_size(file) for delivery in self._to[file.number]}
        return sizes.pop() if len(sizes) == 1 else None

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage one file wherever it goes; it is read once, as fast as the slowest takes it."""
        to = self._to[file.number]
        if len(to) == 1:
            return await to[0].save(file, chunks)
        pipes = [anyio.create_memory_object_stream[bytes](1) for _ in to]
        try:
            async with anyio.create_task_group() as group:
                for delivery, (_, receive) in zip(to, pipes, strict=True):
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
