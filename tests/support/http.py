"""A server on a real socket that answers with exactly the bytes that a test gives."""

import asyncio
import ssl
from contextlib import asynccontextmanager

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
TOKEN = JSON % (38, b'{"access_token":"t","expires_in":3600}')


@asynccontextmanager
async def raw_server(answer, tls=None, *, stalls=False):
    """Answer each request with the bytes that ``answer`` returns for its first line, then close the connection.

    ``stalls``: keep the connection open and send nothing more. Yields the port and the first lines received.
    """
    seen, serving = [], []

    async def serve(reader, writer):
        serving.append(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line = head.split(b"\r\n")[0].decode()
                length = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0)
                await reader.readexactly(length)
                seen.append(line)
                writer.write(TOKEN if "/oauth/token" in line else answer(line))
                await writer.drain()
                if "/oauth/token" not in line:
                    if stalls:
                        await reader.read()  # until the other side gives up
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], seen
        await asyncio.gather(*serving)
