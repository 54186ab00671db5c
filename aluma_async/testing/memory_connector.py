"""``MemoryConnector``: connects an aiohttp client to an aiohttp server in memory, without a socket.

Of the event loop, it uses only ``call_soon``, so it works in virtual time.
"""

import asyncio
import contextvars
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

_HIGH_WATER = 256 * 1024


class MemoryConnector(aiohttp.BaseConnector):
    """Connects an ``aiohttp.ClientSession`` to ``server`` (``runner.server`` of a set-up ``web.AppRunner``)."""

    def __init__(self, server: web.Server, *, limit: int = 0) -> None:
        super().__init__(limit=limit)
        self._server = server
        self._server_ends: list[_Transport] = []

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ARG002
        client = self._factory()
        # The server's end runs in a context without an owner, so that it survives if the client's process is killed.
        unowned = contextvars.Context()
        server = unowned.run(self._server)
        client_end, server_end = _Transport(client, contextvars.copy_context()), _Transport(server, unowned)
        client_end.peer, server_end.peer = server_end, client_end
        self._server_ends.append(server_end)
        unowned.run(server.connection_made, server_end)
        client.connection_made(client_end)
        return client

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        transport = protocol.transport
        super()._release(key, protocol, should_close=should_close)
        if isinstance(transport, _Transport) and transport.surplus and not transport.is_closing():
            surplus, transport.surplus = transport.surplus, b""
            protocol.data_received(surplus)

    def cut(self) -> None:
        """Close all connections as the system does when the client's process is killed: only the server notices."""
        self._closed = True
        self._conns.clear()
        for server_end in self._server_ends:
            server_end.context.run(server_end.peer_closed)


class _Transport(asyncio.Transport):
    """One end of a connection; ``write`` calls ``data_received`` at the other end one loop step later."""

    peer: "_Transport"
    surplus = b""
    """Data that arrives when the client has put this connection back into its pool."""

    def __init__(self, protocol: asyncio.Protocol, context: contextvars.Context) -> None:
        super().__init__({"peername": ("memory", 0), "sockname": ("memory", 0)})
        self.context = context
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._arrived: list[bytes] = []
        self._size = 0
        self._reading = True
        self._closing = self._lost = self._peer_has_closed = self._writing_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.peer._lost:  # noqa: SLF001 - both ends are instances of this class
            return
        peer = self.peer
        peer._arrived.append(bytes(data))  # noqa: SLF001
        peer._size += len(data)  # noqa: SLF001
        self._loop.call_soon(peer._deliver, context=peer.context)  # noqa: SLF001
        if peer._size > _HIGH_WATER and not self._writing_paused:  # noqa: SLF001
            self._writing_paused = True
            self._protocol.pause_writing()

    def write_when_idle(self, data: bytes) -> None:
        """Write data that arrives at the other end once it has read everything else."""
        self.peer.surplus = data

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._connection_lost, None, context=self.context)
            self._loop.call_soon(self.peer.peer_closed, context=self.peer.context)

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._arrived.clear()
            self.peer._arrived.clear()  # noqa: SLF001
            self._loop.call_soon(self._connection_lost, None, context=self.context)
            self._loop.call_soon(self.peer._connection_lost, ConnectionResetError("aborted"), context=self.peer.context)  # noqa: SLF001

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._loop.call_soon(self._deliver, context=self.context)

    def is_reading(self) -> bool:
        return self._reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return self.peer._size  # noqa: SLF001

    def _deliver(self) -> None:
        while self._reading and self._arrived and not self._closing:  # because a closed socket reads nothing
            data = self._arrived.pop(0)
            self._size -= len(data)
            self._protocol.data_received(data)
        peer = self.peer
        if peer._writing_paused and self._size <= _HIGH_WATER // 4 and not peer._lost:  # noqa: SLF001
            peer._writing_paused = False  # noqa: SLF001
            peer._protocol.resume_writing()  # noqa: SLF001
        if self._peer_has_closed and not self._arrived:
            self._connection_lost(None)

    def peer_closed(self) -> None:
        self._peer_has_closed = True
        self._deliver()

    def _connection_lost(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(error)
