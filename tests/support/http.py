"""Servers on real sockets whose answers a test determines, some of them byte by byte."""

import asyncio
import http.client
import socketserver
import ssl
import threading
import time
from contextlib import asynccontextmanager, suppress

from aiohttp import web

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
TOKEN = JSON % (38, b'{"access_token":"t","expires_in":3600}')


@asynccontextmanager
async def http_server(handler, ssl_context=None):
    """Serve all requests with one handler, and yield the port."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


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


class KeepAliveServer:
    """A server in threads of its own, which keeps connections open and answers with exactly the given bytes.

    ``answer`` gets the first line of a request and returns the response and surplus bytes. These follow the response
    in the same write, or after ``delay`` seconds. ``opened`` is the number of connections.
    """

    def __init__(self, answer, *, delay=None, tls=None):
        self.opened = 0
        self.received = []
        self.surplus_sent = threading.Event()
        self._answer = answer
        self._delay = delay
        self._tls = tls
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                connection = owner._tls.wrap_socket(self.request, server_side=True) if owner._tls else self.request
                owner.opened += 1
                with suppress(OSError), connection, connection.makefile("rb") as lines:
                    while line := lines.readline().decode().strip():
                        headers = http.client.parse_headers(lines)
                        lines.read(int(headers.get("Content-Length", 0)))
                        owner.received.append(line)
                        owner._send(connection, *owner._answer(line))

        return Handler

    def _send(self, connection, response, surplus):
        if self._delay is None or not surplus:
            connection.sendall(response + surplus)
        else:
            connection.sendall(response)
            time.sleep(self._delay)
            connection.sendall(surplus)
        if surplus:
            self.surplus_sent.set()
