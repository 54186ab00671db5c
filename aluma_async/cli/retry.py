"""``retry``: ends the hold of parked and cooling-down tasks, through the journal. An exporter may run meanwhile."""

from contextlib import suppress
from typing import Any

import click

from aluma_async.cli.copies import read_copies
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.state import existing_state_folder
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.journal import reader
from aluma_async.models import HoldRecord
from aluma_async.quarantine.records import CopyState
from aluma_async.service.formatting import pluralize, sanitize


def _completions(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Propose the ids of tasks on hold."""
    with suppress(AlumaAsyncError):
        outer = context.parent.params if context.parent else {}
        records = reader.read_records(load_config(merge_options(outer, context.params)).state_folder())
        ids = [record.task_id for record in records if isinstance(record, HoldRecord)]
        return [task_id for task_id in ids if task_id.startswith(incomplete)]
    return []


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, shell_complete=_completions)
@click.option("--all", "all_tasks", is_flag=True, help="All tasks on hold.")
@add_options("config", "state", "traceback")
@click.pass_context
def retry(context: click.Context, /, *, task_ids: tuple[str, ...], all_tasks: bool, **inner: Any) -> int:
    """Retry tasks that are parked or cool down.

    Ends their hold, so that the exporter tries them again at its next listing. For a quarantined task, prints where the
    copy of its files is. Put "--" before an id that starts with a dash.
    """
    if bool(task_ids) == all_tasks:
        raise click.UsageError("name the tasks to retry, or use --all", context)
    config = load_config(merge_options(context.obj, inner))
    folder = existing_state_folder(config)
    on_hold = {record.task_id for record in reader.read_records(folder) if isinstance(record, HoldRecord)}
    copies = read_copies(config).best
    requested = sorted(on_hold) if all_tasks else task_ids
    released = [task_id for task_id in requested if task_id in on_hold]
    if released:
        reader.release_holds(folder, released)
    click.echo(f"ended the hold of {pluralize(len(released), 'task')}")
    for task_id in requested:
        copy = copies.get(task_id)
        if copy and task_id not in on_hold:
            aluma = "deleted at Aluma" if copy.record.state is CopyState.FAILED else "not on hold"
            click.echo(f"{sanitize(task_id)}: {aluma}; a copy of its files is in {copy.folder}", err=True)
        elif task_id not in on_hold:
            click.echo(f"{sanitize(task_id)}: not on hold; 'aluma-async status' lists the tasks that are", err=True)
    return OK if len(released) == len(requested) else INCOMPLETE
