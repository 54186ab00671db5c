"""The pages of ``--listen``: metrics, liveness and readiness. They contain no names and no content of documents."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from aluma_async.service.formatting import indented_json
from aluma_async.service.health import Check

OK = 200
_SERVICE_UNAVAILABLE = 503


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


class Page(NamedTuple):
    """A response."""

    status: int
    """Status code of HTTP."""
    content_type: str
    body: bytes


def metrics_page(metrics: Metrics, accept: str = "") -> Page:
    """Return the metrics in the best format of the header ``Accept``."""
    body, content_type = metrics.page(accept)
    return Page(OK, content_type, body)


def liveness_page(health: Health) -> Page:
    """Return 503 if the exporter is stuck, so that a restart helps."""
    stuck = health.stuck_reason()
    return _json({"status": "stuck", "reason": stuck} if stuck else {"status": "ok"}, ok=not stuck)


def readiness_page(health: Health) -> Page:
    """Return 503 while no work is possible for a reason that a restart does not change."""
    checks = health.readiness()
    ready = all(check.ok for check in checks.values())
    reasons = [f"{name}: {check.reason}" for name, check in checks.items() if not check.ok]
    status = {"status": "ready" if ready else "not ready", "reason": "; ".join(reasons), "checks": checks}
    return _json(status, ok=ready)


def _json(content: Mapping[str, object], *, ok: bool) -> Page:
    return Page(OK if ok else _SERVICE_UNAVAILABLE, "application/json", f"{indented_json(content)}\n".encode())
