"""What ``--listen`` serves: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` with their reason as JSON.

``/healthz`` fails if the exporter must be started anew, ``/readyz`` while it cannot do its work, for whatever
reason: starting it anew would not help. Neither tells of documents, and nothing can be changed through it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from aluma_async.exceptions import ConfigError
from aluma_async.service.health import HealthMonitor
from aluma_async.service.metrics import Metrics

_NOT_WELL = 503
_CLOSE_SECONDS = 1.0


@asynccontextmanager
async def serve(host: str, port: int, metrics: Metrics, health: HealthMonitor) -> AsyncIterator[str]:
    """Serve within the block; the URL says where (port 0: any that is free). Raises ``ConfigError`` if it cannot."""

    async def show_metrics(request: web.Request) -> web.Response:
        body, content_type = metrics.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_health(_: web.Request) -> web.Response:
        stuck = health.stuck_reason()
        return _json({"status": "stuck", "reason": stuck} if stuck else {"status": "ok"}, well=not stuck)

    async def show_readiness(_: web.Request) -> web.Response:
        checks = health.readiness()
        well = all(check.ok for check in checks.values())
        reasons = [f"{name}: {check.reason}" for name, check in checks.items() if not check.ok]
        status = {"status": "ready" if well else "not ready", "reason": "; ".join(reasons), "checks": checks}
        return _json(status, well=well)

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", show_health)
    app.router.add_get("/readyz", show_readiness)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(
                f"[service] listen = {f'{host}:{port}'!r}: {error.strerror}", hint="Another address, or none."
            ) from None
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _json(answer: Mapping[str, object], *, well: bool) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(answer)) + b"\n"
    return web.Response(body=body, status=200 if well else _NOT_WELL, content_type="application/json")
