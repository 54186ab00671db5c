"""``quarantine delete``: removes copies from the quarantine. An exporter may run meanwhile."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from aluma_async.cli.copies import complete_task_ids, read_copies, selected_copies
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.config import Config
from aluma_async.exceptions import DestinationError
from aluma_async.journal import reader
from aluma_async.models import ClaimRecord, ClaimState
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.records import CopyState
from aluma_async.service.formatting import pluralize, sanitize


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True, shell_complete=complete_task_ids)
@click.option("-y", "--yes", is_flag=True, help="No confirmation prompt.")
@add_options("config", "state", "traceback")
@click.pass_context
def delete(context: click.Context, /, *, task_ids: tuple[str, ...], yes: bool, **inner: Any) -> int:
    """Delete copies from the quarantine.

    The copy of a failed task is the only one: Aluma has deleted the task. A task that the exporter is about to fail is
    refused. Put "--" before an id that starts with a dash.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for confirmation; use --yes", context)
    config = load_config(merge_options(context.obj, inner))
    copies = selected_copies(read_copies(config), task_ids)
    failing = _failing(config)
    for copy in copies:
        if copy.task_id in failing:
            click.echo(f"{sanitize(copy.task_id)}: the exporter is about to fail this task; try again later", err=True)
    chosen = [copy for copy in copies if copy.task_id not in failing]
    if not chosen or not (yes or click.confirm(_question(chosen), err=True)):
        return INCOMPLETE
    folder = QuarantineFolder(config.quarantine_folder())
    for copy in chosen:
        try:
            folder.remove(copy)
        except OSError as error:
            raise DestinationError(f"{copy.folder}: {error.strerror or error}") from None
    click.echo(f"deleted {pluralize(len(chosen), 'task')} from the quarantine")
    return OK if len(chosen) == len(set(task_ids)) else INCOMPLETE


def _failing(config: Config) -> set[str]:
    """Return the ids of the tasks to which Fail is being sent: their copies must stay."""
    records = reader.read_records(config.state_folder())
    return {r.task_id for r in records if isinstance(r, ClaimRecord) and r.state is ClaimState.FAILING}


def _question(copies: Sequence[Copy]) -> str:
    only = sum(copy.record.state is CopyState.FAILED for copy in copies)
    warning = f" Aluma has deleted {only} of them, so that this is the only copy." if only else ""
    return f"Delete {pluralize(len(copies), 'task')} from the quarantine?{warning}"
