"""The HTTP server of ``--listen``: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` with a reason as JSON.

``/healthz`` fails if the exporter must be restarted, ``/readyz`` while it cannot work for a reason that a restart does
not fix. No page contains names or content of documents, and no request changes anything.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import anyio
from aiohttp import web

from aluma_async.exceptions import ConfigError
from aluma_async.service.pages import Health, Metrics, Page, liveness_page, metrics_page, readiness_page

MAX_CONNECTIONS = 50
"""Maximum number of open connections; a new one closes the oldest one."""
_CLOSE_SECONDS = 1.0


@asynccontextmanager
async def serve(host: str, port: int, metrics: Metrics, health: Health) -> AsyncIterator[str]:
    """Serve within the block; yield the URL. Port 0: any free port. Raises ``ConfigError`` if binding fails."""

    async def show_metrics(request: web.Request) -> web.Response:
        await metrics.refresh()
        return _response(metrics_page(metrics, request.headers.get("Accept", "")))

    async def show_health(_: web.Request) -> web.Response:
        return _response(liveness_page(health))

    async def show_readiness(_: web.Request) -> web.Response:
        return _response(readiness_page(health))

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_readiness)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            handlers = cast("web.Server", runner.server)  # made by ``setup``
            server = await asyncio.get_running_loop().create_server(lambda: _accept(handlers), host, port)
        except OSError as error:
            raise ConfigError(
                f"[service] listen = {f'{host}:{port}'!r}: {error.strerror}",
                hint="Set another address, or remove the setting.",
            ) from None
        url_host = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{url_host}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
    finally:
        with anyio.CancelScope(shield=True):  # takes at most ``_CLOSE_SECONDS``
            await runner.cleanup()


def _accept(handlers: web.Server) -> web.RequestHandler:
    """Return the handler of a new connection; close the oldest ones, so that no client can use up all descriptors."""
    for oldest in handlers.connections[: -MAX_CONNECTIONS + 1]:
        oldest.force_close()
    return handlers()


def _response(page: Page) -> web.Response:
    return web.Response(status=page.status, body=page.body, headers={"Content-Type": page.content_type})
