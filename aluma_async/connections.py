"""``GuardedConnector``: no HTTP connection is used again after its server sent more than it was asked for.

aiohttp gives a response that arrives on an idle connection to the next request, so that one task would get the file of
another. Here, a connection whose server has sent anything after the end of the last response (a second response, a part
of one, more body than announced) is closed before it is used again; so is a new connection whose server speaks first,
and one after a response that a proxy sends when a time-out ends its wait for the server. A connection rests for a
moment before it is used again, so that a second response that follows the first one has arrived.

After a second response, requests in progress on connections that were used before are aborted, and for some minutes no
connection is used twice. Not detected: a single second response that arrives later than that moment, and just after the
next request was sent on the same connection. No HTTP/1.1 client can distinguish it from the right one.
"""

import asyncio
import select
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

DISTRUST_SECONDS = 600.0
"""Seconds during which no connection is used twice after a server sent a response without a request."""
REST_SECONDS = 0.02
"""Minimum time between two requests on a connection; the pool opens more connections instead of waiting."""


class GuardedConnector(aiohttp.TCPConnector):
    """A pool of guarded connections, which rest between two requests. Arguments as for ``TCPConnector``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        guard_connections(self)

    async def _get(self, key: Any, traces: Any) -> Any:
        """Return the connection that is idle for the longest time, or None to open a new one."""
        if key in self._conns and monotonic() - self._conns[key][0][1] < REST_SECONDS:
            return None
        return await aiohttp.TCPConnector._get(self, key, traces)  # noqa: SLF001 - faster than super()


def guard_connections(
    connector: aiohttp.BaseConnector | None, on_unrequested: Callable[[], None] | None = None
) -> None:
    """Guard all connections that ``connector`` opens from now on. May be called repeatedly.

    For pools that are not a ``GuardedConnector``; their connections do not rest between two requests.
    ``on_unrequested`` is called when a server has sent a response without a request.
    """
    if connector is None:
        raise RuntimeError("the session is closed")
    # There is no public way to a protocol of one's own. A test fails if aiohttp changes this one.
    factory: Any = connector._factory  # noqa: SLF001
    if factory.func is not _GuardedProtocol:
        factory = partial(_GuardedProtocol, _Guard(), **factory.keywords)
        connector._factory = factory  # noqa: SLF001
    if on_unrequested:
        factory.args[0].listeners.append(on_unrequested)


def close_connection(response: aiohttp.ClientResponse) -> None:
    """Prevent that the connection of a response is used again, also if the response has ended.

    Call it for a status by which a proxy gives up its wait for the server, whose own response may arrive later.
    """
    if response._protocol is not None:  # noqa: SLF001 - ``connection`` is None once the response has ended
        response._protocol.force_close()  # noqa: SLF001


class _Guard:
    """What the connections of a connector have in common."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[], None]] = []
        """Called when a server has sent a response without a request."""
        self.open: dict[_GuardedProtocol, None] = {}
        """The open connections, in the order of their creation."""
        self.distrusted_until = 0.0
        """Time (the event loop's clock) until which no connection is used twice; 0: connections are used again."""

    def distrusts(self, now: float) -> bool:
        """Return whether connections must not be used twice at present."""
        if now >= self.distrusted_until:
            self.distrusted_until = 0.0
        return self.distrusted_until > 0

    def report(self, now: float) -> None:
        """Distrust all connections that were used more than once: their responses may belong to earlier requests."""
        self.distrusted_until = now + DISTRUST_SECONDS
        for protocol in list(self.open):
            if protocol.reused and protocol.transport:
                protocol.transport.abort()
        for listener in self.listeners:
            listener()


class _GuardedProtocol(ResponseHandler):
    """The client's side of a connection."""

    def __init__(self, guard: _Guard, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._guard = guard
        self._readable: Callable[[int], list[Any]] | None = None
        self.reused = False
        """Whether the connection is used, or was used, for more than one request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare the check for data that the event loop has not read yet."""
        super().connection_made(transport)
        self._guard.open[self] = None
        # Only for the first request, because an overridden method would be one more call for every request.
        self.set_response_params = self._begin_first_request  # type: ignore[method-assign]
        if (socket := transport.get_extra_info("socket")) and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(socket.fileno(), select.POLLIN)
            self._readable = poll.poll

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._guard.open.pop(self, None)
        super().connection_lost(exc)

    def is_connected(self) -> bool:
        """Return whether the connection can be used again. The pool asks this only while it is idle."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        parser = self._parser
        try:
            surplus = self._buffer or self._tail or self._exception or (parser and parser.feed_eof())
        except Exception:  # noqa: BLE001 - bytes that are no part of a response
            surplus = True
        if surplus or self._should_close:
            if not self._should_close:  # After a response that announces the end of the connection, no other follows.
                self._guard.report(self._loop.time())
            return False
        if self._guard.distrusted_until and self._guard.distrusts(self._loop.time()):
            return False
        if self._readable and self._readable(0):  # not read yet: a response, or the end of the connection
            return False
        self.reused = True
        return True

    def _begin_first_request(self, **params: Any) -> None:
        """Prepare for the first response, unless the server spoke before there was a request."""
        del self.set_response_params
        if self.should_close and self.transport:
            self._tail = b""
            self.transport.abort()
        self.set_response_params(**params)
