"""A run: an exporter, what is shown of it, and the signals that end it."""

import gc
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

import anyio

from aluma_async.cli.exit_codes import DONE, LEFT_BEHIND, error_lines
from aluma_async.cli.observers import Services
from aluma_async.cli.reload import Reload
from aluma_async.cli.signals import leave_now, on_hangup, on_signals
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
    services = Services(config, console)
    async with services.opened(), open_reloadable_exporter(config, credentials, on_event=services.on_event) as opened:
        exporter = opened.exporter
        services.watch(exporter.destination)
        gc.freeze()  # what is there by now stays: no collection need look at it again
        stopped = anyio.Event()

        def drain() -> None:
            stopped.set()
            exporter.stop()
            in_hand = pluralize(len(console.stats.active), "task")
            console.print_message("warning", "Draining", f"draining: {in_hand} in hand, again to stop now")

        def leave() -> NoReturn:
            console.restore_terminal()
            leave_now()  # the next run sweeps what was staged

        reload = Reload(load or (lambda: config), opened, console, services.systemd)
        with on_signals(drain, leave), on_hangup(reload):
            try:
                done = await _watched(exporter, services.beside, once=once)
            except AlumaAsyncError as error:
                if isinstance(error, AuthenticationFailed) or not console.stats.listed:
                    raise
                console.print_message("error", "RunFailed", "\n".join(error_lines(error)))
                return LEFT_BEHIND
    if summary:
        console.finish(done, ", ".join(target.description for target in config.destinations.values()))
    return DONE if stopped.is_set() or not once or done.everything_exported else LEFT_BEHIND


async def _watched(
    exporter: Exporter, beside: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, once: bool
) -> Summary:
    """Run, and beside it what shows how it goes."""
    async with anyio.create_task_group() as group:
        for watch in beside:
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
