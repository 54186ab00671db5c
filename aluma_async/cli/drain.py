"""Runs an exporter for a command that handles a few tasks and then ends."""

import os
import sys
from functools import partial

import anyio

from aluma_async.cli.exit_codes import error_lines
from aluma_async.cli.signals import handle_stop_signals
from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.pipeline.exporter import Exporter
from aluma_async.service.color import Color
from aluma_async.service.console import Console, choose_mode
from aluma_async.service.formatting import pluralize
from aluma_async.service.stats import RunStats

_MAX_NAMED_TASKS = 3


def open_console(config: Config, progress: bool | None, color: Color = "auto") -> Console:
    """Return a console on stderr."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    mode = choose_mode(config.service, progress=progress, terminal=terminal)
    return Console(config.service, mode, RunStats(), color)


async def drain(exporter: Exporter, console: Console, config: Config) -> AlumaAsyncError | None:
    """Run an exporter until it is drained, or stopped by a signal; return the error that ended the run."""
    error: AlumaAsyncError | None = None
    drain_seconds, on_hang = config.exporter.drain_timeout_seconds, partial(report_hang, console)
    with handle_stop_signals(exporter.stop, drain_seconds=drain_seconds, on_hang=on_hang):
        async with anyio.create_task_group() as group:
            group.start_soon(console.watch)
            try:
                await exporter.run_until_drained()
            except AlumaAsyncError as failure:  # returned, because the group would wrap it
                error = failure
            group.cancel_scope.cancel()
    return error


def report_end(error: AlumaAsyncError | None, console: Console) -> None:
    """Print the error that ended a run; raise it if the run did nothing."""
    if error and not console.stats.listed:
        raise error
    if error:
        console.print_message("error", "RunFailed", *error_lines(error))


def report_hang(console: Console) -> None:
    """Report the tasks whose end the process does not wait for any longer. Any thread may call it."""
    console.restore_terminal()
    active = list(console.stats.active)
    names = f" ({', '.join(active[:_MAX_NAMED_TASKS])})" if active else ""
    text = f"ended although {pluralize(len(active), 'task')} did not: a place or a plug-in does not return{names}"
    console.print_message("error", "DrainHangs", text, "The next run releases the claims.")
