"""What listens to a run besides its report: metrics and health over HTTP, the service manager, notifications."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio

from aluma_async.config import Config, ServiceConfig
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.policy.adaptive_limit import AdaptiveLimit
from aluma_async.ports import Destination, OnEvent
from aluma_async.service.console import Console
from aluma_async.service.health import HealthMonitor
from aluma_async.service.sd_notify import SystemdNotifier, notify_socket, watchdog_seconds

_PROBE_SECONDS = 30.0
"""An idle destination is tried this often."""
_HELD_BYTES = 2 * 1024 * 1024
"""What a worker may have in hand of a download."""


class Observers:
    """Those that the config and the environment want; each only hears events, and none knows another."""

    def __init__(self, config: Config, console: Console) -> None:
        self._config = config
        self._console = console
        self._listeners: list[OnEvent] = [console.on_event]
        self.background_tasks: list[Callable[[], Coroutine[Any, Any, None]]] = [console.watch]
        """What runs as long as the exporter does."""
        self.systemd: SystemdNotifier | None = None
        self._health: HealthMonitor | None = None

    def on_event(self, event: Event) -> None:
        """Tell everybody. Raises what the first one raises that breaks, after all were told."""
        broken: Exception | None = None
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - one that breaks must not keep others from hearing
                broken = broken or error
        if broken:
            raise broken

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Begin what is wanted. Raises ``ConfigError``."""
        service = self._config.service
        send = notify_socket(os.environ)
        async with AsyncExitStack() as stack:
            if service.listen_address or send:
                health = HealthMonitor(
                    asyncio.get_running_loop().time,  # anyio's takes three times as long, for each event
                    poll_seconds=self._config.exporter.poll_wait_max_seconds,
                    stuck_after_seconds=service.stuck_after_seconds + self._max_report_delay(),
                )
                self._health = health
                self._listeners.append(health)
                if send:
                    self._add_systemd(send, health)
                if service.listen_address:
                    await self._serve(*service.listen_address, health, stack)
            if service.notify_command or service.notify_url:
                await self._notify(service, stack)
            if tracing := open_tracer():
                self._listeners.append(tracing)
            yield

    def probe_while_idle(self, destination: Destination) -> None:
        """Try now and then whether a destination takes work, when no work shows it; readiness tells."""
        if self._health and self._config.service.listen_address:
            self.background_tasks.append(partial(_probe, destination, self._health))

    def _max_report_delay(self) -> float:
        """Seconds for which a limit on bytes may hold up what each worker has just read."""
        rate = self._config.limits.max_bytes_per_second
        return self._config.exporter.workers * _HELD_BYTES / rate if rate else 0.0

    def _add_systemd(self, send: Callable[[str], bool], health: HealthMonitor) -> None:
        def on_stuck(reason: str) -> None:
            self._console.log.write("error", "Stuck", f"the watchdog is not fed any more: {reason}")

        self.systemd = SystemdNotifier(send, health, watchdog=watchdog_seconds(os.environ), on_stuck=on_stuck)
        self._listeners.append(self.systemd)
        self.background_tasks.append(self.systemd.run)

    async def _notify(self, service: ServiceConfig, stack: AsyncExitStack) -> None:
        from aluma_async.service.notification_channels import command_channel, open_webhook_channel
        from aluma_async.service.notifications import Channel, Notifier  # costs memory, so only where it is wanted

        channels: list[Channel] = []
        if service.notify_command:
            channels.append(command_channel(service.notify_command))
        if service.notify_url:
            channels.append(await stack.enter_async_context(open_webhook_channel(service.notify_url)))
        notifier = Notifier(
            channels,
            max_task_age_seconds=service.notify_task_age_seconds,
            log=lambda text: self._console.log.write("warning", "NotificationLost", text),
        )
        stack.push_async_callback(notifier.finish)
        self._listeners.append(notifier)
        self.background_tasks.append(notifier.run)

    async def _serve(self, host: str, port: int, health: HealthMonitor, stack: AsyncExitStack) -> None:
        from aluma_async.service.http import serve  # costs memory, so only where it is wanted
        from aluma_async.service.metrics import Metrics

        most = self._config.max_at_once
        metrics = Metrics(limit=AdaptiveLimit(most).value if self._config.limits.adaptive else most)
        self._listeners.append(metrics)
        url = await stack.enter_async_context(serve(host, port, metrics, health))
        if self._config.service.log_level in ("debug", "info"):
            self._console.log.write("info", "Listening", f"metrics and health at {url}", url=url)


async def _probe(destination: Destination, health: HealthMonitor) -> None:
    while True:
        await anyio.sleep(_PROBE_SECONDS)
        if health.listed and health.idle_seconds >= _PROBE_SECONDS:
            error: AlumaAsyncError | None = None
            try:
                await destination.probe()
            except AlumaAsyncError as why:
                error = why
            health.record_probe(error)


def open_tracer() -> OnEvent | None:
    """Make spans, if OpenTelemetry is installed and somebody has set it up."""
    try:
        from aluma_async.service.tracing import Tracing, is_set_up
    except ModuleNotFoundError:
        return None
    return Tracing() if is_set_up() else None
