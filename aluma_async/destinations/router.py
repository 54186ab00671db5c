"""``DestinationRouter``: a ``Destination`` over several: each file goes to the destinations of its route."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from aluma_async.concurrency.limited_call import LimitedCalls
from aluma_async.destinations.outages import Outages
from aluma_async.exceptions import AlumaAsyncError, DestinationError, DestinationUnavailable, primary_error
from aluma_async.models import Claim, ExportFile, ExportSpec
from aluma_async.policy.routing import Routing
from aluma_async.ports import Delivery, Destination, VerifyingDestination

PROBE_SECONDS = 30.0
"""Seconds after which a probe of one destination without a result counts as failed."""
_SEPARATOR = "\x1f"
"""Between the names and receipts in the receipt of a router."""


class DestinationRouter:
    """Passes the files of a task on to ``destinations``, by name, as ``routing`` selects them.

    The destinations commit one after the other. If one of them fails, those before it already have the task's files:
    the task is released, and its next attempt replaces them.
    """

    def __init__(self, destinations: Mapping[str, Destination], routing: Routing) -> None:
        self._destinations = destinations
        self._routing = routing
        self._outages = Outages()
        self._probes: Mapping[str, LimitedCalls[None]] = {name: LimitedCalls() for name in destinations}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the destinations."""
        return tuple(self._destinations)

    @property
    def routing(self) -> Routing:
        """The routing of claims that are opened from now on."""
        return self._routing

    def set_routing(self, routing: Routing) -> None:
        """Change the routing; deliveries that are open keep theirs."""
        self._routing = routing

    async def probe(self) -> None:
        """Probe all destinations, because a task may need any of them. Raises the error of the first that fails.

        The error spares other tasks if another destination works.
        """
        if len(self._destinations) == 1:
            for destination in self._destinations.values():
                return await destination.probe()
        errors: dict[str, AlumaAsyncError] = {}
        async with anyio.create_task_group() as group:
            for name, destination in self._destinations.items():
                group.start_soon(self._probe, name, destination, errors)
        self._outages.record(errors)
        for name in self._destinations:
            if error := errors.get(name):
                error.spares_others = len(errors) < len(self._destinations)
                raise error
        return None

    async def _probe(self, name: str, destination: Destination, errors: dict[str, AlumaAsyncError]) -> None:
        try:
            failure = (await self._probes[name].run(destination.probe, PROBE_SECONDS)).error
        except TimeoutError:
            failure = DestinationUnavailable(f"destination {name!r}: did not answer a probe in {PROBE_SECONDS:.0f} s")
        if isinstance(failure, AlumaAsyncError):
            errors[name] = failure
        elif failure:  # a defect of a plug-in
            text = f"destination {name!r}: its probe failed: unexpected {type(failure).__name__}"
            errors[name] = DestinationUnavailable(text)
            errors[name].__cause__ = failure

    async def verify(self, receipt: str) -> bool:
        """Return whether all destinations of an earlier delivery, which are named in the receipt, still have it."""
        parts = receipt.split(_SEPARATOR)
        for name, part in zip(parts[::2], parts[1::2], strict=False):
            destination = self._destinations.get(name)
            if not (isinstance(destination, VerifyingDestination) and await destination.verify(part)):
                return False
        return len(parts) % 2 == 0

    def destinations_for(self, claim: Claim) -> tuple[str, ...]:
        """Return the names of the destinations of a claim's files. Raises ``DestinationError``."""
        names = {name for file in claim.spec.files for name in self._routing.destinations_for(claim.task, file)}
        return tuple(name for name in self._destinations if name in names)

    def open(self, claim: Claim) -> AbstractAsyncContextManager[Delivery]:
        """Open a delivery at every destination of the claim's files, each with its own part of the files.

        Raises ``DestinationError`` if a file has no route.
        """
        default = self._routing.default
        if len(self._destinations) == 1 and default in self._destinations:  # then every file goes there
            return _SingleDelivery(default, self._destinations[default].open(claim))
        return self._open_routed(claim)

    @asynccontextmanager
    async def _open_routed(self, claim: Claim) -> AsyncIterator["RoutedDelivery"]:
        names = {file.number: self._routing.destinations_for(claim.task, file) for file in claim.spec.files}
        needed = list(dict.fromkeys(name for targets in names.values() for name in targets))
        self._outages.check(needed)
        try:
            async with self._open_all(claim, names) as delivery:
                yield delivery
        except DestinationUnavailable as error:
            if error.for_all and len(needed) == 1:  # otherwise it is not known whose error it is
                self._outages.add(needed[0], error, len(self._destinations))
            raise
        self._outages.end(needed)

    @asynccontextmanager
    async def _open_all(self, claim: Claim, names: Mapping[int, Sequence[str]]) -> AsyncIterator["RoutedDelivery"]:
        opened: dict[str, Delivery] = {}
        async with AsyncExitStack() as stack:
            # In reverse order, because the delivery that is opened last commits first.
            for name in reversed(list(self._destinations)):
                if files := tuple(file for file in claim.spec.files if name in names[file.number]):
                    part = replace(claim, spec=ExportSpec(files, claim.spec.received))
                    opened[name] = await stack.enter_async_context(_Strict(self._destinations[name].open(part)))
            deliveries = {number: [opened[name] for name in targets] for number, targets in names.items()}
            delivery = RoutedDelivery(deliveries, tuple(name for name in self._destinations if name in opened))
            yield delivery
        delivery.receipt = _combine_receipts(opened)


class _Strict:
    """A delivery that cannot suppress an exception: the other destinations would commit the files that they have."""

    def __init__(self, delivery: AbstractAsyncContextManager[Delivery]) -> None:
        self._delivery = delivery

    def __aenter__(self) -> Coroutine[Any, Any, Delivery]:
        return self._delivery.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._delivery.__aexit__(kind, error, trace)


class RoutedDelivery:
    """The deliveries of each file, by its number, and the names of all destinations."""

    def __init__(self, deliveries: Mapping[int, Sequence[Delivery]], destinations: tuple[str, ...]) -> None:
        self._deliveries = deliveries
        self.destinations = destinations
        self.receipt = ""
        """The receipts of all destinations; empty before the end, and if one of them issues none."""

    def resumable_size(self, file: ExportFile) -> int | None:
        """Return the size that an earlier attempt staged, if it is the same at all destinations of the file."""
        sizes = {delivery.resumable_size(file) for delivery in self._deliveries[file.number]}
        return sizes.pop() if len(sizes) == 1 else None

    def resumable_version(self, file: ExportFile) -> str:
        """Return the version of that file at the server; empty if the destinations have different ones."""
        versions = {_version_of(delivery)(file) for delivery in self._deliveries[file.number]}
        return versions.pop() if len(versions) == 1 else ""

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file at all its destinations. It is read once, at the speed of the slowest destination."""
        deliveries = self._deliveries[file.number]
        if len(deliveries) == 1:
            return await deliveries[0].save(file, chunks)
        pipes = [anyio.create_memory_object_stream[bytes](1) for _ in deliveries]
        try:
            async with anyio.create_task_group() as group:
                for delivery, (_, receive) in zip(deliveries, pipes, strict=True):
                    group.start_soon(_feed_delivery, delivery, file, receive, getattr(chunks, "version", ""))
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


class _SingleDelivery:
    """The delivery at the only destination. It adds its name, and no call per file."""

    def __init__(self, name: str, delivery: AbstractAsyncContextManager[Delivery]) -> None:
        self.destinations = (name,)
        self._delivery = delivery

    async def __aenter__(self) -> Self:
        delivery = self._opened = await self._delivery.__aenter__()
        self.save = delivery.save
        self.resumable_size = delivery.resumable_size
        self.resumable_version = _version_of(delivery)
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        return self._delivery.__aexit__(kind, error, trace)

    @property
    def receipt(self) -> str:
        """The receipt with the name of the destination; empty before the end, and if there is none."""
        receipt = getattr(self._opened, "receipt", "")
        usable = receipt.__class__ is str and receipt and _SEPARATOR not in receipt
        return f"{self.destinations[0]}{_SEPARATOR}{receipt}" if usable else ""


def _combine_receipts(deliveries: Mapping[str, Delivery]) -> str:
    receipts = {name: getattr(delivery, "receipt", "") for name, delivery in deliveries.items()}
    if not all(isinstance(receipt, str) and receipt and _SEPARATOR not in receipt for receipt in receipts.values()):
        return ""
    return _SEPARATOR.join(part for pair in receipts.items() for part in pair)


def _version_of(delivery: Delivery) -> Callable[[ExportFile], str]:
    return getattr(delivery, "resumable_version", _unknown_version)


def _unknown_version(_: ExportFile) -> str:
    return ""


class _Copy:
    """The bytes of a file for one of its destinations."""

    def __init__(self, chunks: AsyncIterable[bytes], version: str) -> None:
        self._chunks = chunks
        self.version = version

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._chunks)


async def _feed_delivery(
    delivery: Delivery, file: ExportFile, chunks: MemoryObjectReceiveStream[bytes], version: str
) -> None:
    async with chunks:
        await delivery.save(file, _Copy(chunks, version))
        if chunks.statistics().current_buffer_used:
            raise DestinationError(f"file {file.number}: a destination has not read it to its end")
