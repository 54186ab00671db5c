"""``Observers``: everything that receives the events of a run: console, metrics, health, systemd, notifications."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from aluma_async.config import Config, ServiceConfig
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.pipeline.destination_probe import DestinationProbe
from aluma_async.ports import Destination, OnEvent
from aluma_async.service.console import Console
from aluma_async.service.health import HealthMonitor
from aluma_async.service.sd_notify import SystemdNotifier, notify_socket, watchdog_seconds
from aluma_async.wiring import ReloadableExporter

if TYPE_CHECKING:
    from aluma_async.service.metrics import Metrics
    from aluma_async.supervisor.link import ParentLink

_PROBE_SECONDS = 30.0
"""Interval of the probes of an idle destination."""
_UNREPORTED_BYTES = 2 * 1024 * 1024
"""Bytes of a download that a worker may have read, but not yet reported."""


class Observers:
    """The observers that the config and the environment ask for. Each sees all events; none knows another.

    One of several processes reports to its parent through ``link``, which informs the service manager and listens.
    """

    def __init__(self, config: Config, console: Console, link: "ParentLink | None" = None) -> None:
        self._config = config
        self._link = link
        self._console = console
        self._listeners: list[OnEvent] = [console.on_event]
        self.background_tasks: list[Callable[[], Coroutine[Any, Any, None]]] = [console.watch]
        """Coroutines that run as long as the exporter."""
        self.systemd: SystemdNotifier | None = None
        self.health: HealthMonitor | None = None
        """Decides whether the run makes progress, if that is asked for."""

    def on_event(self, event: Event) -> None:
        """Pass an event to every listener, then raise the first exception of a listener."""
        failure: Exception | None = None
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - one failing listener must not cut off the others
                failure = failure or error
        if failure:
            raise failure

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Start the configured observers. Raises ``ConfigError``."""
        service = self._config.service
        send = None if self._link else notify_socket(os.environ)
        async with AsyncExitStack() as stack:
            if service.listen_address or send or self._link:
                health = HealthMonitor(
                    self._console.stats,
                    poll_seconds=self._config.exporter.poll_wait_max_seconds,
                    stuck_after_seconds=service.stuck_after_seconds + self._max_report_delay(),
                )
                self.health = health
                if send:
                    self._add_systemd(send, health)
                if self._link:
                    self._listeners.append(self._link.on_event)
                    self.background_tasks.append(partial(self._link.report, self._console.stats, health, self.metrics))
                elif service.listen_address:
                    self.background_tasks.append(partial(self._serve, *service.listen_address, health))
            if service.notify_command or service.notify_url:
                await self._notify(service, stack)
            if tracing := open_tracer():
                self._listeners.append(tracing)
            yield

    def watch(self, reloadable: ReloadableExporter) -> None:
        """Keep ``/readyz`` current: notice that no request succeeds, and probe the destinations while idle."""
        if self.health and self._config.service.listen_address:
            self.health.outage = lambda: reloadable.outage
            self.background_tasks.append(partial(_probe, reloadable.exporter.destination, self.health))

    def _max_report_delay(self) -> float:
        """Return for how many seconds the byte rate limit may delay the report of bytes that were read."""
        rate = self._config.limits.max_bytes_per_second
        return self._config.exporter.workers * _UNREPORTED_BYTES / rate if rate else 0.0

    def _add_systemd(self, send: Callable[[str], bool], health: HealthMonitor) -> None:
        def on_stuck(reason: str) -> None:
            self._console.log.write("error", "Stuck", f"watchdog notifications stopped: {reason}")

        self.systemd = SystemdNotifier(
            send, self._console.stats, health, watchdog=watchdog_seconds(os.environ), on_stuck=on_stuck
        )
        self._listeners.append(self.systemd)
        self.background_tasks.append(self.systemd.run)

    async def _notify(self, service: ServiceConfig, stack: AsyncExitStack) -> None:
        # Imported here, because a run without notifications need not pay for the memory.
        from aluma_async.service.notification_channels import command_channel, open_webhook_channel
        from aluma_async.service.notifications import Channel, Notifier

        channels: list[Channel] = []
        if service.notify_command:
            channels.append(command_channel(service.notify_command))
        if service.notify_url:
            channels.append(await stack.enter_async_context(open_webhook_channel(service.notify_url)))
        notifier = Notifier(
            channels,
            max_task_age_seconds=service.notify_task_age_seconds,
            task_deadline_seconds=self._config.aluma.task_deadline_seconds,
            log=lambda text: self._console.log.write("warning", "NotificationLost", text),
        )
        stack.push_async_callback(notifier.finish)
        self._listeners.append(notifier)
        self.background_tasks.append(notifier.run)

    def metrics(self) -> "Metrics":
        """Return the metrics of this run."""
        # Imported here, because a run without --listen need not pay for the memory.
        from aluma_async.service.metrics import metrics_of

        return metrics_of(self._config, self._console.stats, self.health.is_ready if self.health else lambda: True)

    async def _serve(self, host: str, port: int, health: HealthMonitor) -> None:
        from aluma_async.service.listen import listen

        quiet = self._config.service.log_level in ("warning", "error")
        await listen(host, port, self.metrics(), health, self._console.log, quiet=quiet)


async def _probe(destination: Destination, health: HealthMonitor) -> None:
    probe = DestinationProbe(destination)
    while True:
        await anyio.sleep(_PROBE_SECONDS)
        if health.idle_seconds >= _PROBE_SECONDS:
            probe_error: AlumaAsyncError | None = None
            try:
                await probe.run()
            except AlumaAsyncError as error:
                probe_error = error
            health.record_probe(probe_error)


def open_tracer() -> OnEvent | None:
    """Return a listener that creates spans, or None unless OpenTelemetry is installed and configured."""
    try:
        from aluma_async.service.tracing import Tracing, is_set_up
    except ModuleNotFoundError:
        return None
    return Tracing() if is_set_up() else None
