"""A proxy with the restrictions of PgBouncer: few start-up parameters, and no named prepared statements."""

import struct
from contextlib import asynccontextmanager

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

KNOWN_PARAMETERS = {"user", "database", "client_encoding", "application_name"}
_TLS_REQUEST = 80877103


@asynccontextmanager
async def run_pgbouncer_like_proxy(server_port):
    """Yield the port of the proxy, and a list of what it has refused so far."""
    refused = []
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda client: _serve(client, server_port, refused))
        yield listener.extra(anyio.abc.SocketAttribute.local_port), refused
        group.cancel_scope.cancel()


async def _serve(client, server_port, refused):
    async with client:
        reader = BufferedByteReceiveStream(client)
        try:
            startup = await _startup(client, reader)
            words = startup[8:].split(b"\0")
            if unknown := [word.decode() for word in words[::2] if word and word.decode() not in KNOWN_PARAMETERS]:
                refused += unknown
                await client.send(_error(f"unsupported startup parameter: {unknown[0]}"))
                return
            async with await anyio.connect_tcp("127.0.0.1", server_port) as server, anyio.create_task_group() as group:
                await server.send(startup)
                group.start_soon(_copy, server, client)
                while True:
                    kind = await reader.receive_exactly(1)
                    size = await reader.receive_exactly(4)
                    body = await reader.receive_exactly(struct.unpack(">i", size)[0] - 4)
                    if kind in b"P" and not body.startswith(b"\0"):
                        refused.append("prepared statement " + body.partition(b"\0")[0].decode())
                    await server.send(kind + size + body)
        except* (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass


async def _startup(client, reader):
    """Return the start-up message; refuse TLS before it."""
    while True:
        size = await reader.receive_exactly(4)
        body = await reader.receive_exactly(struct.unpack(">i", size)[0] - 4)
        if struct.unpack(">i", body[:4])[0] != _TLS_REQUEST:
            return size + body
        await client.send(b"N")


async def _copy(source, target):
    async for chunk in source:
        await target.send(chunk)


def _error(message):
    fields = b"SFATAL\0C08P01\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack(">i", len(fields) + 4) + fields
