"""The entry point: the run, its sub-commands, and the handling of exceptions."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import click

from aluma_async.cli.cancel import cancel
from aluma_async.cli.check import check
from aluma_async.cli.command_groups import GroupedCommands, reject_misplaced_options
from aluma_async.cli.completion import completion
from aluma_async.cli.config_schema import schema
from aluma_async.cli.config_show import config_group
from aluma_async.cli.demo import demo
from aluma_async.cli.doctor import doctor
from aluma_async.cli.exit_codes import INCOMPLETE, INTERRUPTED, OK, error_lines, exit_code
from aluma_async.cli.fail import fail
from aluma_async.cli.help import show_help
from aluma_async.cli.history import history
from aluma_async.cli.init import init
from aluma_async.cli.interpreter_end import end_without_finalization
from aluma_async.cli.list_tasks import list_tasks
from aluma_async.cli.mistakes import read_for_export
from aluma_async.cli.monitoring import monitoring
from aluma_async.cli.options import RUN, add_options, config_file, load_config, replaced_destinations
from aluma_async.cli.quarantine import quarantine_group
from aluma_async.cli.redeliver import redeliver
from aluma_async.cli.retry import retry
from aluma_async.cli.simulate import simulate
from aluma_async.cli.start_errors import print_error
from aluma_async.cli.status import status
from aluma_async.cli.streams import protect_streams, run_command
from aluma_async.cli.systemd import print_unit
from aluma_async.cli.variables import PROCESS
from aluma_async.exceptions import AlumaAsyncError, ConfigError

_EPILOG = """\b
'aluma-async help' lists the reference pages.
Every option has an environment variable: ALUMA_ASYNC_BASE_URL for --base-url.
Credentials are not options: set ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or
client_id and client_secret_file in the configuration file.
Shell completion: eval "$(aluma-async completion bash)"
  (also for zsh, fish and powershell).
"""
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO)
"""Errors of stdout; those of files have a file name."""
_SETTINGS = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ALUMA_ASYNC", "max_content_width": 110}


def _print_version(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given and not context.resilient_parsing:
        from aluma_async.cli.version import version_lines  # takes long, and a run does not need it

        click.echo("\n".join(version_lines()))
        context.exit()


@click.group(
    "aluma-async", cls=GroupedCommands, invoke_without_command=True, context_settings=_SETTINGS, epilog=_EPILOG
)
@add_options(*RUN)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show version, build, Python and extras, and exit.",
)
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> int:
    """Export finished tasks from Aluma.

    Without a COMMAND, runs until it is stopped, or with --once until all pending tasks are exported. A task is
    completed at Aluma only after all its files are safe at the destination. Begin with --dry-run and --limit 1.
    """
    context.obj.update(options, command=context.invoked_subcommand)
    if context.invoked_subcommand:
        reject_misplaced_options(context)
        return OK
    reading = read_for_export(options)
    config = reading.config
    credentials = config.credentials()
    # They import aiohttp, which takes long, and --help does not need it.
    from aluma_async.cli.dry_run import dry_run, read_holds
    from aluma_async.cli.run import run
    from aluma_async.destinations.memory_folders import memory_warnings
    from aluma_async.destinations.places import check_config_file
    from aluma_async.pipeline.selection import Selection

    selection = None
    if options["dry_run"] or options["limit"] or options["task"]:
        selection = Selection(options["task"], options["limit"], read_holds(config) if options["limit"] else ())
    settings: dict[str, Any] = {
        "once": options["once"],
        "summary": config.service.log_level in ("debug", "info"),
        "warnings": (*replaced_destinations(options), *memory_warnings(config)),
        "progress": options["progress"],
        "load": partial(load_config, options),
    }
    start: Callable[..., Coroutine[Any, Any, int]] = partial(run, config, credentials, color=options["color"] or "auto")
    if PROCESS in os.environ:
        from aluma_async.cli.process import run_process

        start = partial(run_process, config, credentials)
    elif selection:  # few tasks, so one process is enough
        settings |= {"once": True, "selection": selection}
    elif config.exporter.processes > 1:
        from aluma_async.cli.supervise import supervise

        start = partial(supervise, config)
    try:
        check_config_file(config, config_file(options))
        if selection and options["dry_run"]:
            return anyio.run(dry_run, config, credentials, selection)
        return anyio.run(partial(start, **settings))
    except ConfigError as error:
        raise reading.mistakes.located(error) from None


config_group.add_command(schema)
cli.add("Run", demo, simulate)
cli.add("Look", list_tasks, status, history, quarantine_group, show_help)
cli.add("Repair", doctor, retry, redeliver, fail, cancel)
cli.add("Set up", init, check, config_group, print_unit, monitoring, completion)


def main() -> None:
    """Run the command line and end the process."""
    set_exit_code = end_without_finalization()
    protect_streams()
    code = run_command(_run)
    set_exit_code(code)
    sys.exit(code)


def _run() -> int:
    options: dict[str, Any] = {}
    try:
        return cli.main(prog_name="aluma-async", standalone_mode=False, obj=options) or OK
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group without a command; click before 8.2 has no such class
            error.show()
        else:
            command = error.ctx.command_path if error.ctx else "aluma-async"
            message = " ".join(
                error.format_message().split()
            )  # click lists the choices of an argument on several lines
            print_error("UsageError", message, f"{_dash_hint(error)}Try '{command} --help'.", options)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AlumaAsyncError as error:
        message, *hint = error_lines(error)
        mistakes = [mistake.text for mistake in getattr(error, "mistakes", ())]
        print_error(type(error).__name__, message, "\n".join(hint), options, mistakes)
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS and not error.filename:
            raise
        if options.get("verbose"):
            traceback.print_exc()
        print_error("AlumaAsyncError", f"unexpected {type(error).__name__}; use -v to see the traceback", "", options)
        return INCOMPLETE


def _dash_hint(error: click.UsageError) -> str:
    """Return how to give an id that begins with a dash, if it was taken for an option."""
    parameters = error.ctx.command.params if error.ctx else []
    takes_ids = any(isinstance(one, click.Argument) and (one.name or "").startswith("task_id") for one in parameters)
    if takes_ids and isinstance(error, click.NoSuchOption):
        return 'Put "--" before an id that begins with a dash. '
    return ""
