"""A run: an exporter, what is shown of it, and the signals that end it."""

import gc
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

import anyio

from aluma_async.cli.exit_codes import INCOMPLETE, OK, error_lines
from aluma_async.cli.observers import Observers
from aluma_async.cli.reload import Reload
from aluma_async.cli.signals import exit_now, handle_sighup, handle_stop_signals
from aluma_async.clock import loop_time
from aluma_async.config import Config, Credentials
from aluma_async.exceptions import AlumaAsyncError, AuthenticationFailed
from aluma_async.models import Summary
from aluma_async.pipeline.exporter import Exporter
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.formatting import pluralize
from aluma_async.service.stats import RunStats
from aluma_async.wiring import open_reloadable_exporter


async def run(
    config: Config,
    credentials: Credentials,
    *,
    once: bool,
    progress: bool | None = None,
    summary: bool = True,
    load: Callable[[], Config] | None = None,
) -> int:
    """Export as the config says; return the exit code. Raises ``AlumaAsyncError`` if it cannot begin.

    ``load`` reads the config again when SIGHUP asks for it.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    mode = choose_mode(config.service, progress=progress, terminal=terminal)
    console = Console(config.service, mode, RunStats(loop_time))
    for warning in config.warnings():
        console.log.write("warning", "ConfigWarning", warning)
    observers = Observers(config, console)
    async with observers.open(), open_reloadable_exporter(config, credentials, on_event=observers.on_event) as opened:
        exporter = opened.exporter
        observers.probe_while_idle(exporter.destination)
        gc.freeze()  # what is there by now stays: no collection need look at it again
        stopped = anyio.Event()

        def drain() -> None:
            stopped.set()
            exporter.stop()
            in_hand = pluralize(len(console.stats.active), "task")
            console.print_message("warning", "Draining", f"draining: {in_hand} in hand, again to stop now")

        def exit_immediately() -> NoReturn:
            console.restore_terminal()
            exit_now()  # the next run sweeps what was staged

        reload = Reload(load or (lambda: config), opened, console, observers.systemd)
        with handle_stop_signals(drain, exit_immediately), handle_sighup(reload):
            try:
                done = await _run_with_observers(exporter, observers.background_tasks, once=once)
            except AlumaAsyncError as error:
                if isinstance(error, AuthenticationFailed) or not console.stats.listed:
                    raise
                console.print_message("error", "RunFailed", "\n".join(error_lines(error)))
                return INCOMPLETE
    if summary:
        console.finish(done, ", ".join(target.description for target in config.destinations.values()))
    return OK if stopped.is_set() or not once or done.everything_exported else INCOMPLETE


async def _run_with_observers(
    exporter: Exporter, background_tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, once: bool
) -> Summary:
    """Run, and beside it what shows how it goes."""
    async with anyio.create_task_group() as group:
        for watch in background_tasks:
            group.start_soon(watch)
        outcome: Summary | AlumaAsyncError
        try:
            outcome = await (exporter.run_until_drained() if once else exporter.run())
        except AlumaAsyncError as error:  # raised below, outside of the group that would wrap it
            outcome = error
        group.cancel_scope.cancel()
    if isinstance(outcome, AlumaAsyncError):
        raise outcome
    return outcome
