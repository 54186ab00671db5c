"""``Monitor``: metrics and health of an exporter inside another program, as functions and as an ASGI application.

It opens no port, and its pages contain no names and no content of documents.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from aluma_async.config import Config
from aluma_async.events import Event
from aluma_async.pipeline.exporter import Exporter
from aluma_async.service.health import HealthMonitor
from aluma_async.service.metrics import metrics_of
from aluma_async.service.pages import Page, liveness_page, metrics_page, readiness_page
from aluma_async.service.stats import RunStats

_Message: TypeAlias = MutableMapping[str, Any]
_NOT_FOUND = Page(404, "text/plain", b"not found\n")
_NOT_ALLOWED = Page(405, "text/plain", b"only GET and HEAD\n")


class Monitor:
    """A listener for the events of one exporter. Call its methods in the thread of the event loop.

    Args:
        config: The configuration of the exporter.
    """

    def __init__(self, config: Config) -> None:
        self._stats = RunStats()
        self._health = HealthMonitor(
            self._stats,
            poll_seconds=config.exporter.poll_wait_max_seconds,
            stuck_after_seconds=config.service.stuck_after_seconds,
        )
        self._metrics = metrics_of(config, self._stats, self._health.is_ready)

    def __call__(self, event: Event) -> None:
        """Record an event."""
        self._stats(event)

    def watch(self, exporter: Exporter) -> None:
        """Count the exporter as not ready while no request to Aluma succeeds."""
        self._health.outage = exporter.outage

    def metrics(self, accept: str = "") -> Page:
        """Return the page ``/metrics`` in the best format of the header ``Accept``."""
        return metrics_page(self._metrics, accept)

    def liveness(self) -> Page:
        """Return the page ``/healthz``: 503 if the exporter is stuck, so that a restart helps."""
        return liveness_page(self._health)

    def readiness(self) -> Page:
        """Return the page ``/readyz``: 503 with the reason while no work is possible."""
        return readiness_page(self._health)

    async def asgi(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Serve ``/metrics``, ``/healthz`` and ``/readyz`` (ASGI 3). It may be mounted below another path."""
        if scope["type"] == "lifespan":
            await _confirm_lifespan(receive, send)
        elif scope["type"] == "http":
            page = self._page(scope)
            headers = [
                (b"content-type", page.content_type.encode()),
                (b"content-length", str(len(page.body)).encode()),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": page.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page.body})
        else:
            await send({"type": "websocket.close"})

    def _page(self, scope: _Message) -> Page:
        if scope["method"] not in ("GET", "HEAD"):
            return _NOT_ALLOWED
        match scope["path"].removeprefix(scope.get("root_path", "")):
            case "/metrics":
                accepted = [value for name, value in scope["headers"] if name == b"accept"]
                return self.metrics(b",".join(accepted).decode("latin-1"))
            case "/healthz":
                return self.liveness()
            case "/readyz":
                return self.readiness()
        return _NOT_FOUND


async def _confirm_lifespan(
    receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
) -> None:
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
