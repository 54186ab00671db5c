"""``supervise``: runs several exporter processes, and shows them as one: output, signals, health, service manager."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import anyio
import anyio.to_thread

from aluma_async.cli.exit_codes import AUTH_FAILED, INTERRUPTED, MISCONFIGURED, OK, STATE_IN_USE, error_lines
from aluma_async.cli.signals import handle_sighup, handle_stop_signals
from aluma_async.cli.variables import unknown_variables
from aluma_async.config import Config
from aluma_async.config.processes import check_shares
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.journal.redistribution import redistribute
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.formatting import pluralize
from aluma_async.service.health import HealthMonitor
from aluma_async.service.sd_notify import SystemdNotifier, notify_socket, watchdog_seconds
from aluma_async.service.stats import RunStats
from aluma_async.supervisor.process import decorate
from aluma_async.supervisor.supervisor import Supervisor
from aluma_async.wiring import check_private_folders

_USAGE_ERROR = 2
_FINAL_CODES = (_USAGE_ERROR, STATE_IN_USE, AUTH_FAILED, MISCONFIGURED)
"""Exit codes that a restart cannot change."""
_RELOAD_SECONDS, _END_SECONDS = 10.0, 5.0


async def supervise(
    config: Config,
    *,
    once: bool,
    progress: bool | None,
    summary: bool,
    load: Callable[[], Config],
    warnings: Sequence[str],
) -> int:
    """Run the configured number of processes; return the worst exit code. Arguments as for ``run``.

    Raises ``AlumaAsyncError`` if they cannot be started.
    """
    service, count = config.service, config.exporter.processes
    mode = choose_mode(service, progress=progress, terminal=False)
    console = Console(service, mode, RunStats())
    log = console.log
    private = await anyio.to_thread.run_sync(check_private_folders, config)
    for warning in (*config.warnings(), *warnings, *unknown_variables(os.environ), *private):
        log.write("warning", "ConfigWarning", warning)
    state = config.state_folder().absolute()
    if not config.fleet.is_enabled:  # in which each process keeps its claims, and the others know them
        await redistribute(state, count, on_event=console.log)
    as_json = service.log_format == "json"

    def write(line: str, number: int) -> None:
        sys.stderr.write(decorate(line, number, as_json=as_json, now=_now) + "\n")

    supervisor = Supervisor(
        count,
        state,
        console.stats,
        final_codes=_FINAL_CODES,
        once=once,
        stuck_after_seconds=service.stuck_after_seconds,
        write=write,
        report=log.write,
    )
    background = [console.watch]
    systemd = _notifier(console, supervisor)
    if systemd:
        background.append(systemd.run)
    if service.listen_address:
        from aluma_async.service.listen import listen
        from aluma_async.supervisor.metrics import MergedMetrics

        metrics = MergedMetrics(supervisor.processes, supervisor.restarts)
        quiet = service.log_level in ("warning", "error")
        background.append(partial(listen, *service.listen_address, metrics, supervisor.totals, log, quiet=quiet))

    def drain() -> None:
        supervisor.drain()
        if systemd:
            systemd.stopping()
        tasks = pluralize(len(console.stats.active), "task")
        text = f"draining: {tasks} in progress; send the signal again to stop now"
        console.print_message("warning", "Draining", text)

    def kill_hanging() -> None:
        supervisor.kill()
        console.print_message("error", "DrainHangs", "ended although not all processes did")

    # Each process ends itself before.
    drain_seconds = config.exporter.drain_timeout_seconds + _END_SECONDS
    started_at = time.monotonic()
    async with anyio.create_task_group() as group:
        reload = ReloadAll(load, supervisor, console, systemd)

        def start_reload() -> None:
            group.start_soon(reload)

        with (
            handle_stop_signals(drain, supervisor.kill, drain_seconds=drain_seconds, on_hang=kill_hanging),
            handle_sighup(start_reload),
        ):
            for task in background:
                group.start_soon(task)
            code = await supervisor.run()
            group.cancel_scope.cancel()
    if supervisor.killed:
        return INTERRUPTED
    if (summary or code != OK) and any(process.has_listed for process in supervisor.processes):
        into = ", ".join(target.description for target in config.destinations.values())
        console.finish(supervisor.totals.summary(time.monotonic() - started_at), into)
    return code


class ReloadAll:
    """Handler of SIGHUP. An invalid configuration is reported once, and not passed on."""

    def __init__(
        self,
        load: Callable[[], Config],
        supervisor: Supervisor,
        console: Console,
        systemd: SystemdNotifier | None,
    ) -> None:
        self._load = load
        self._supervisor = supervisor
        self._log = console.log
        self._systemd = systemd
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> None:
        """Let all processes read the configuration again."""
        async with self._one_at_a_time:
            if self._systemd:
                self._systemd.reloading()
            try:
                config = self._load()
                config.routing()
                check_shares(config, len(self._supervisor.processes))
            except AlumaAsyncError as error:
                self._log.write("error", "ReloadFailed", f"configuration not reloaded: {'. '.join(error_lines(error))}")
            except Exception as error:  # noqa: BLE001 - a file that cannot be read must not end the processes
                text = f"configuration not reloaded: unexpected {type(error).__name__}"
                self._log.write("error", "ReloadFailed", text)
            else:
                self._log.set_level(config.service.log_level)
                await self._supervisor.reload(_RELOAD_SECONDS)
            if self._systemd:
                self._systemd.reloaded()


def _notifier(console: Console, supervisor: Supervisor) -> SystemdNotifier | None:
    """Return what informs the service manager; its heartbeats show that this process runs, whatever the others do."""
    send = notify_socket(os.environ)
    if not send:
        return None
    never = HealthMonitor(console.stats, poll_seconds=float("inf"), stuck_after_seconds=float("inf"))
    notifier = SystemdNotifier(
        send, console.stats, never, watchdog=watchdog_seconds(os.environ), on_stuck=lambda _: None
    )
    supervisor.on_ready = notifier.ready
    return notifier


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
