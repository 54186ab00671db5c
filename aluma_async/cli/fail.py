"""``fail``: fails parked tasks at Aluma, after the administrator has confirmed it.

Aluma then deletes the tasks, and their copies in the quarantine are the only ones. So a task is failed only if its copy
is complete, and is that of the Export Specification which Aluma has now. The state folder is locked meanwhile.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any

import anyio
import click

from aluma_async.cli.copies import complete_task_ids, completeness, copy_row, read_copies, selected_copies
from aluma_async.cli.drain import drain, open_console, report_end
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import API, add_options, load_config, merge_options
from aluma_async.config import Config
from aluma_async.events import (
    ClaimRefused,
    Event,
    QuarantineFailed,
    SettlementDeferred,
    SettlementUnconfirmed,
    TaskFailed,
    TaskParked,
)
from aluma_async.exceptions import FailConfirmed, JournalLocked
from aluma_async.journal import reader
from aluma_async.journal.lock import is_locked
from aluma_async.models import HoldRecord
from aluma_async.pipeline.confirmed import ConfirmedTask
from aluma_async.quarantine.folder import Copy
from aluma_async.quarantine.records import CopyState
from aluma_async.service.formatting import pluralize, sanitize

_HINT = "Stop the exporter, fail the tasks, then start it again."


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, shell_complete=complete_task_ids)
@click.option("--reason", metavar="ERROR", help="All parked tasks with this error, such as UnexportableTask.")
@click.option("-y", "--yes", is_flag=True, help="No confirmation prompt.")
@add_options(*API, "output", "state", "log_format", "verbose", "quiet")
@click.pass_context
def fail(context: click.Context, /, *, task_ids: tuple[str, ...], reason: str | None, yes: bool, **inner: Any) -> int:
    """Fail parked tasks that cannot be exported.

    Aluma deletes a failed task. So only tasks with a complete copy in the quarantine are failed, and the copies stay.
    The exporter may then fail three more tasks of the same kind by itself. Stop the exporter first.
    'aluma-async status' lists parked tasks and their errors. Put "--" before an id that starts with a dash.
    """
    if bool(task_ids) == bool(reason):
        raise click.UsageError("name the tasks to fail, or use --reason", context)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for confirmation; use --yes", context)
    config = load_config(merge_options(context.obj, inner))
    config.routing()
    config.credentials()
    if is_locked(config.state_folder()):
        raise JournalLocked(f"state folder {config.state_folder()}: in use by another exporter", hint=_HINT)
    records = reader.read_records(config.state_folder())
    holds = {record.task_id: record for record in records if isinstance(record, HoldRecord) and record.parked}
    copies = read_copies(config).best
    if reason:
        parked = [key for key, copy in copies.items() if key in holds or copy.record.state is CopyState.PARKED]
        wanted = [key for key in parked if _confirmed(copies[key], holds.get(key)).reason == reason]
        if not wanted:
            click.echo(
                f"no parked task with the error {sanitize(reason)} has a copy; see 'aluma-async status'", err=True
            )
            return INCOMPLETE
    else:
        wanted = list(dict.fromkeys(task_ids))
    tasks = {copy.task_id: _confirmed(copy, holds.get(copy.task_id)) for copy in selected_copies(copies, wanted)}
    accepted = {key: task for key, task in tasks.items() if _is_accepted(task.copy, holds)}
    if not accepted or not (yes or click.confirm(_question(accepted), err=True)):
        return INCOMPLETE
    result = anyio.run(_run, config, accepted)
    for task_id in accepted.keys() - result.failed:
        click.echo(f"{sanitize(task_id)}: not failed: {sanitize(result.reason(task_id))}", err=True)
    click.echo(f"failed {pluralize(len(result.failed), 'task')} at Aluma")
    return OK if result.failed >= set(wanted) else INCOMPLETE


def _confirmed(copy: Copy, hold: HoldRecord | None) -> ConfirmedTask:
    """Return a task with its last error: a copy that is complete keeps the first one."""
    if hold and hold.error != FailConfirmed.__name__:  # which an earlier call leaves if a copy cannot be stored
        return ConfirmedTask(copy, hold.error, hold.message)
    return ConfirmedTask(copy, copy.record.error, copy.record.message)


def _is_accepted(copy: Copy, parked: Collection[str]) -> bool:
    """Return whether a task may be failed; otherwise print the reason."""
    if not copy.is_complete:
        reason = f"{completeness(copy_row(copy))}; Aluma has the only complete one"
    elif copy.record.state is CopyState.FAILED and copy.task_id not in parked:
        reason = "Aluma has deleted it, or the next run of the exporter fails it"
    else:
        return True
    click.echo(f"{sanitize(copy.task_id)}: not failed: {reason}", err=True)
    return False


def _question(tasks: Mapping[str, ConfirmedTask]) -> str:
    errors = ", ".join(sorted({task.reason for task in tasks.values()}))
    count = pluralize(len(tasks), "task")
    return f"Fail {count} at Aluma ({sanitize(errors)})? Aluma deletes them: the copies are then the only ones."


class _Result:
    """What became of each task."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self._errors: dict[str, str] = {}
        self._listed: set[str] = set()

    def on_event(self, event: Event, wanted: Collection[str]) -> bool:
        """Record the end of an attempt; return whether the log should report it."""
        match event:
            case TaskFailed(task=task) if task.id in wanted:
                self.failed.add(task.id)
                return False
            case TaskParked(task=task, hold=hold) if task.id in wanted:
                self._errors.setdefault(task.id, hold.message)
                return False
            case QuarantineFailed(task=task, error=error) | ClaimRefused(task=task, error=error) if task.id in wanted:
                self._errors[task.id] = str(error)
                return False
            case SettlementUnconfirmed(task=task) | SettlementDeferred(task=task) if task.id in wanted:
                self._errors[task.id] = "Aluma has not confirmed it; the next run of the exporter repeats the request"
                return False
        return True

    def reason(self, task_id: str) -> str:
        """Return the reason why a task was not failed."""
        return self._errors.get(task_id, "not pending at Aluma, where it may have failed already, or not tried")


async def _run(config: Config, tasks: Mapping[str, ConfirmedTask]) -> _Result:
    from aluma_async.wiring import open_confirmed  # imports aiohttp, which takes long, and --help does not need it

    result, console = _Result(), open_console(config, progress=False)

    def on_event(event: Event) -> None:
        console.stats(event)
        if result.on_event(event, tasks.keys()):
            console.log(event)

    async with open_confirmed(config, tasks, on_event=on_event) as exporter:
        error = await drain(exporter, console, config)
    if isinstance(error, JournalLocked):
        raise JournalLocked(str(error), hint=_HINT) from None
    report_end(error, console)
    return result
