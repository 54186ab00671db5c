"""``redeliver``: delivers copies in the quarantine to today's destinations, without Aluma.

The state folder is locked meanwhile, because an exporter writes to the same destinations and to the same copies.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import anyio
import click

from aluma_async.cli.copies import (
    Copies,
    complete_task_ids,
    completeness,
    copy_row,
    iso_time,
    read_copies,
    require_quarantine,
    selected_copies,
)
from aluma_async.cli.drain import drain, open_console, report_end
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.mistakes import read_for_export
from aluma_async.cli.options import add_options, config_file, merge_options
from aluma_async.config import Config
from aluma_async.events import Event, TaskCancelled, TaskCompleted, TaskParked
from aluma_async.exceptions import JournalError, JournalLocked
from aluma_async.journal import reader
from aluma_async.journal.lock import lock_folder
from aluma_async.private_files import check_folder
from aluma_async.quarantine.folder import Copy
from aluma_async.service.color import Color
from aluma_async.service.formatting import format_bytes, pluralize, sanitize


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, shell_complete=complete_task_ids)
@click.option("--all", "all_tasks", is_flag=True, help="All tasks in the quarantine.")
@click.option("--incomplete", is_flag=True, help="Also tasks whose copy lacks files; these files are left out.")
@click.option("--replace", is_flag=True, help="Complete copies replace other versions at the destinations.")
@click.option("--again", is_flag=True, help="With --all, also tasks that were redelivered before.")
@add_options("config", "output", "workers", "state", "progress", "color", "log_format", "verbose", "quiet")
@click.pass_context
def redeliver(
    context: click.Context,
    /,
    *,
    task_ids: tuple[str, ...],
    all_tasks: bool,
    incomplete: bool,
    replace: bool,
    again: bool,
    **inner: Any,
) -> int:
    """Deliver the copies of quarantined tasks.

    Uses the copies of failed and parked tasks, the present configuration, and nothing from Aluma. The copies stay, so
    that it can be repeated; 'aluma-async quarantine delete' removes them. A task is not delivered if a destination has
    another version of it, which may be newer. --all leaves out tasks that were redelivered before, or that this
    exporter has exported since their copy was stored. The exit code is 1 if a task was not delivered, or if a copy
    cannot be read. Stop the exporter first. Put "--" before an id that starts with a dash.
    """
    if bool(task_ids) == all_tasks:
        raise click.UsageError("name the tasks to deliver, or use --all", context)
    options = merge_options(context.obj, inner)
    config = read_for_export(options).config
    from aluma_async.destinations.places import check_config_file  # slow to import, and --help does not need it

    check_config_file(config, config_file(options))
    require_quarantine(config)
    try:
        if warning := check_folder("quarantine", config.quarantine_folder()):
            click.echo(f"aluma-async: {warning}", err=True)
        with lock_folder(config.state_folder()):
            found = read_copies(config)
            copies = found.best if again or not all_tasks else _without_redelivered(found.best)
            wanted = list(_without_exported(config, copies)) if all_tasks else task_ids
            choice = _Choice(incomplete, replace)
            display = _Display(options.get("progress"), options.get("color") or "auto")
            code = _deliver(config, found, wanted, choice, display)
            left_out = all_tasks and len(wanted) < len(copies)
            is_unclear = found.unreadable if all_tasks else any(map(found.may_have_another, task_ids))
            return code or (INCOMPLETE if left_out or is_unclear else OK)
    except JournalLocked as error:
        raise JournalLocked(str(error), hint="Stop the exporter, redeliver, then start it again.") from None


def _without_redelivered(copies: Mapping[str, Copy]) -> dict[str, Copy]:
    """Return the copies that were not redelivered yet, because a consumer may have taken the others' files away."""
    for task_id, copy in copies.items():
        if copy.record.redelivered_at is not None:
            text = f"already redelivered at {iso_time(copy.record.redelivered_at)}; --again delivers it again"
            click.echo(f"{sanitize(task_id)}: {text}", err=True)
    return {task_id: copy for task_id, copy in copies.items() if copy.record.redelivered_at is None}


def _without_exported(config: Config, copies: Mapping[str, Copy]) -> Iterator[str]:
    """Yield the ids of the tasks that were not exported since their copy was stored; print the others."""
    exported: dict[str, float] = {}
    since = min((copy.record.stored_at for copy in copies.values()), default=0.0)
    try:
        for record in reader.read_history(config.state_folder(), since):
            exported[record.task_id] = record.at
    except JournalError as error:
        click.echo(sanitize(f"{error}; so it is not known which tasks were exported"), err=True)
    for task_id, copy in copies.items():
        if (at := exported.get(task_id)) is not None and at >= copy.record.stored_at:
            text = f"{sanitize(task_id)}: not redelivered: it was exported at {iso_time(at)}, after its copy was stored"
            click.echo(f"{text}; 'aluma-async redeliver {sanitize(task_id)}' delivers the copy nevertheless", err=True)
        else:
            yield task_id


class _Display(NamedTuple):
    """The options for the live view."""

    progress: bool | None
    color: Color


class _Choice(NamedTuple):
    """The options for copies that lack files, and for other versions at the destinations."""

    incomplete: bool = False
    replace: bool = False


def _deliver(config: Config, copies: Copies, task_ids: Sequence[str], choice: _Choice, display: _Display) -> int:
    """Deliver the copies of tasks, print the result, and return the exit code."""
    chosen = selected_copies(copies.best, task_ids)
    accepted: list[Copy] = []
    for copy in chosen:
        if difference := copies.difference(copy):
            reason = f"{difference}; remove the folder with the wrong one from the quarantine"
        elif not (copy.is_complete or choice.incomplete):
            reason = f"{completeness(copy_row(copy))}; --incomplete delivers the others"
        else:
            accepted.append(copy)
            continue
        click.echo(f"{sanitize(copy.task_id)}: not redelivered: {sanitize(reason)}", err=True)
    delivered = anyio.run(_run, config, accepted, choice, display) if accepted else _Result()
    for copy in accepted:
        if copy.task_id not in delivered.completed:
            reason = delivered.errors.get(copy.task_id, "not tried")
            click.echo(f"{sanitize(copy.task_id)}: not redelivered: {sanitize(reason)}", err=True)
    size = f"{pluralize(delivered.files, 'file')}, {format_bytes(delivered.bytes)}"
    click.echo(f"redelivered {pluralize(len(delivered.completed), 'task')}: {size}")
    return OK if len(delivered.completed) == len(dict.fromkeys(task_ids)) else INCOMPLETE


class _Result:
    """What became of each task."""

    def __init__(self) -> None:
        self.completed: set[str] = set()
        self.errors: dict[str, str] = {}
        self.files = self.bytes = 0

    def on_event(self, event: Event) -> bool:
        """Record the end of an attempt; return whether the log should report it."""
        match event:
            case TaskCompleted(task=task):
                self.completed.add(task.id)
                self.files += event.files
                self.bytes += event.bytes
            case TaskCancelled(task=task, error=error):
                self.errors[task.id] = f"{type(error).__name__}: {error.text}"
                return False  # it is printed at the end, and there is no next attempt
            case TaskParked(task=task, hold=hold):
                self.errors[task.id] = f"{hold.error}: {hold.message}"
                return False
        return True


async def _run(config: Config, copies: Sequence[Copy], choice: _Choice, display: _Display) -> _Result:
    from aluma_async.wiring import open_redelivery  # imports aiohttp, which takes long, and --help does not need it

    result = _Result()
    console = open_console(config, *display)

    def on_event(event: Event) -> None:
        console.stats(event)
        if result.on_event(event):
            console.log(event)

    async with open_redelivery(
        config, copies, incomplete=choice.incomplete, replace=choice.replace, on_event=on_event
    ) as (exporter, source):
        error = await drain(exporter, console, config)
        for problem in source.problems:
            console.print_message("warning", "NotMarked", problem)
    report_end(error, console)
    return result
