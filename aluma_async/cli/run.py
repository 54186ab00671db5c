"""``run``: runs an exporter with its console output, its observers and its signal handlers."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import anyio

from aluma_async.cli.drain import report_hang
from aluma_async.cli.dry_run import left_out_lines
from aluma_async.cli.exit_codes import INCOMPLETE, OK, error_lines
from aluma_async.cli.observers import Observers
from aluma_async.cli.open_files import AcceptErrorFilter, raise_limit
from aluma_async.cli.reload import Reload
from aluma_async.cli.signals import exit_now, handle_sighup, handle_stop_signals, limit_drain
from aluma_async.cli.variables import unknown_variables
from aluma_async.config import Config, Credentials
from aluma_async.exceptions import AlumaAsyncError, AuthenticationFailed
from aluma_async.models import Summary
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.selection import Selection
from aluma_async.service.color import Color
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.formatting import pluralize
from aluma_async.service.stats import RunStats
from aluma_async.wiring import open_reloadable_exporter

if TYPE_CHECKING:
    from aluma_async.supervisor.link import ParentLink


async def run(
    config: Config,
    credentials: Credentials,
    *,
    once: bool,
    progress: bool | None = None,
    color: Color = "auto",
    summary: bool = True,
    load: Callable[[], Config] | None = None,
    warnings: Sequence[str] = (),
    selection: Selection | None = None,
    link: "ParentLink | None" = None,
) -> int:
    """Export as configured and return the exit code. Raises ``AlumaAsyncError`` if the run cannot start.

    Args:
        config: the configuration.
        credentials: client id and secret.
        once: end when all pending tasks are exported, instead of at a signal.
        progress: show progress; None: depends on the terminal and the log level.
        color: whether the live view has colours.
        summary: print a summary at the end, even if all pending tasks are exported.
        load: reads the configuration again at SIGHUP.
        warnings: warnings about the configuration, besides its own.
        selection: export only the tasks that it selects.
        link: connects one of several processes to its parent, which shows progress, warnings and summary.
    """
    if link and not await link.connect(exit_now):
        return OK
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    mode = choose_mode(config.service, progress=False if link else progress, terminal=terminal)
    console = Console(config.service, mode, RunStats(), color)
    general = () if link else (*config.warnings(), *warnings, *unknown_variables(os.environ))
    for warning in (*general, *raise_limit(config)):
        console.log.write("warning", "ConfigWarning", warning)
    logging.getLogger("asyncio").addFilter(AcceptErrorFilter())
    observers = Observers(config, console, link)
    partition = link.partition if link else None
    async with (
        observers.open(),
        open_reloadable_exporter(
            config, credentials, on_event=observers.on_event, select=selection, partition=partition
        ) as reloadable,
    ):
        exporter = reloadable.exporter
        for warning in () if link else reloadable.warnings:
            console.log.write("warning", "ConfigWarning", warning)
        observers.watch(reloadable)
        gc.freeze()  # these objects live until the end, so the garbage collector need not visit them again
        stopped = anyio.Event()

        def stop() -> None:
            stopped.set()
            exporter.stop()

        def drain() -> None:
            stop()
            tasks = pluralize(len(console.stats.active), "task")
            text = f"draining: {tasks} in progress; send the signal again to stop now"
            console.print_message("warning", "Draining", text)

        def exit_immediately() -> NoReturn:
            console.restore_terminal()
            exit_now()  # the next run removes the staged files

        reload = Reload(load or (lambda: config), reloadable, console, observers.systemd)
        drain_seconds, on_hang = config.exporter.drain_timeout_seconds, partial(report_hang, console)

        def drain_for_parent() -> None:
            stop()
            limit_drain(drain_seconds, on_hang)

        if link:
            link.on_drain, link.on_reload = drain_for_parent, reload
        with (
            handle_stop_signals(drain, exit_immediately, drain_seconds=drain_seconds, on_hang=on_hang),
            handle_sighup(reload),
        ):
            try:
                result = await _run_with_observers(exporter, observers.background_tasks, once=once)
            except AlumaAsyncError as error:
                if isinstance(error, AuthenticationFailed) or not console.stats.listed:
                    raise
                console.print_message("error", "RunFailed", *error_lines(error))
                result = None
    complete = result and (
        stopped.is_set() or (once and result.everything_exported and not console.stats.listing_problem)
    )
    if selection and result:
        for line in left_out_lines(selection):
            console.print_message("warning", "TaskNotSelected", line)
        complete = complete and (stopped.is_set() or not selection.is_refused)
    if link:
        from aluma_async.supervisor.messages import end_of

        await link.finish(end_of(console.stats))
    elif (summary or not complete) and console.stats.summary:
        into = ", ".join(target.description for target in config.destinations.values())
        console.finish(console.stats.summary, into)
    return OK if complete else INCOMPLETE


async def _run_with_observers(
    exporter: Exporter, background_tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, once: bool
) -> Summary:
    """Run the exporter together with the background tasks, and cancel these at its end."""
    async with anyio.create_task_group() as group:
        for background_task in background_tasks:
            group.start_soon(background_task)
        outcome: Summary | AlumaAsyncError
        try:
            outcome = await (exporter.run_until_drained() if once else exporter.run())
        except AlumaAsyncError as error:  # raised below, because the task group would wrap it in an ExceptionGroup
            outcome = error
        group.cancel_scope.cancel()
    if isinstance(outcome, AlumaAsyncError):
        raise outcome
    return outcome
