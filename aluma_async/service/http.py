"""The HTTP server of ``--listen``: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` with a reason as JSON.

``/healthz`` fails if the exporter must be restarted, ``/readyz`` while it cannot work for a reason that a restart does
not fix. No page contains names or content of documents, and no request changes anything.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, cast

import anyio
from aiohttp import web

from aluma_async.exceptions import ConfigError
from aluma_async.service.formatting import indented_json
from aluma_async.service.health import Check

MAX_CONNECTIONS = 50
"""Maximum number of open connections; a new one closes the oldest one."""
_SERVICE_UNAVAILABLE = 503
_CLOSE_SECONDS = 1.0


class Metrics(Protocol):
    """What ``/metrics`` shows."""

    async def refresh(self) -> None:
        """Prepare for the next page."""

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type."""
        ...


class Health(Protocol):
    """What ``/healthz`` and ``/readyz`` show."""

    def stuck_reason(self) -> str:
        """Return why the exporter is stuck; empty if it makes progress."""
        ...

    def readiness(self) -> Mapping[str, Check]:
        """Return whether each part can work."""
        ...


@asynccontextmanager
async def serve(host: str, port: int, metrics: Metrics, health: Health) -> AsyncIterator[str]:
    """Serve within the block; yield the URL. Port 0: any free port. Raises ``ConfigError`` if binding fails."""

    async def show_metrics(request: web.Request) -> web.Response:
        await metrics.refresh()
        body, content_type = metrics.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_health(_: web.Request) -> web.Response:
        stuck = health.stuck_reason()
        return _json({"status": "stuck", "reason": stuck} if stuck else {"status": "ok"}, ok=not stuck)

    async def show_readiness(_: web.Request) -> web.Response:
        checks = health.readiness()
        ready = all(check.ok for check in checks.values())
        reasons = [f"{name}: {check.reason}" for name, check in checks.items() if not check.ok]
        status = {"status": "ready" if ready else "not ready", "reason": "; ".join(reasons), "checks": checks}
        return _json(status, ok=ready)

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


def _json(content: Mapping[str, object], *, ok: bool) -> web.Response:
    body = f"{indented_json(content)}\n".encode()
    return web.Response(body=body, status=200 if ok else _SERVICE_UNAVAILABLE, content_type="application/json")
