"""``--dry-run``: prints which tasks a run would claim now, and where their files may go. Claims and writes nothing."""

import time
from collections.abc import Iterator

import click

from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.list_tasks import pages, text_row
from aluma_async.cli.output import ignore_closed_pipe
from aluma_async.clock import system_clock
from aluma_async.config import Config, Credentials
from aluma_async.exceptions import JournalError
from aluma_async.journal import reader
from aluma_async.models import HoldRecord
from aluma_async.pipeline.selection import Selection
from aluma_async.policy.lease import remaining
from aluma_async.service.formatting import pluralize, sanitize


def read_holds(config: Config) -> dict[str, HoldRecord]:
    """Return the tasks on hold by id; none if the journal cannot be read, which a run reports."""
    try:
        records = reader.read_records(config.state_folder())
    except JournalError:
        return {}
    now = system_clock()
    holds = [record for record in records if isinstance(record, HoldRecord)]
    return {hold.task_id: hold for hold in holds if remaining(hold.since, hold.seconds, now) > 0}


def left_out_lines(selection: Selection) -> Iterator[str]:
    """Yield lines about the tasks that a limited run skips because they are on hold, and the named ones not pending."""
    if selection.skipped:
        count = pluralize(len(selection.skipped), "task")
        yield f"{count} on hold skipped; 'aluma-async status' prints the reasons"
    for task_id in selection.absent:
        yield (
            f"task {sanitize(task_id, 80)}: not pending at Aluma; it may be exported, deleted, claimed elsewhere, or in"
            " a project that is not exported"
        )


async def dry_run(config: Config, credentials: Credentials, selection: Selection) -> int:
    """Print the tasks and return the exit code. Raises ``AlumaAsyncError``."""
    routing, holds, claimable, on_hold, now = config.routing(), read_holds(config), 0, 0, time.time()
    several = False
    with ignore_closed_pipe():
        async with pages(config, credentials) as listing:
            async for page in listing:
                for task in filter(selection, page):
                    names = routing.possible_destinations(task)
                    several = several or len(names) > 1
                    is_held = task.id in holds
                    claimable, on_hold = claimable + (not is_held), on_hold + is_held
                    click.echo(text_row(task, now, names, "on hold" if is_held else ""))
    held = f"; {pluralize(on_hold, 'task')} on hold: 'aluma-async status' prints the reasons" if on_hold else ""
    _note(f"{pluralize(claimable, 'task')} would be claimed now{held}")
    for name, destination in config.destinations.items():
        _note(f"destination {name}: {destination.description}")
    if several:
        _note("Where several destinations are named, each file goes to the first route that matches it.")
    _note("Nothing was claimed or written. The files of a task are known only after Start.")
    for line in left_out_lines(selection):
        _note(line)
    return INCOMPLETE if selection.is_refused else OK


def _note(text: str) -> None:
    click.echo(text, err=True)
