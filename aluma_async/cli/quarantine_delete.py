"""``quarantine delete``: removes copies from the quarantine. An exporter may run meanwhile.

Only what was shown is removed: not a copy that was stored after the question, nor one that a Fail depends on. The
exporter locks such a copy until its journal says that the task is being failed.
"""

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
from aluma_async.journal.lock import is_locked
from aluma_async.models import ClaimRecord, ClaimState
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.locking import CopyChanged, CopyLocked, locked_copy
from aluma_async.quarantine.records import CopyState
from aluma_async.service.formatting import pluralize, sanitize

_BUSY = "the exporter is working on this task; try again later"


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, required=True, shell_complete=complete_task_ids)
@click.option("-y", "--yes", is_flag=True, help="No confirmation prompt.")
@add_options("config", "state", "traceback")
@click.pass_context
def delete(context: click.Context, /, *, task_ids: tuple[str, ...], yes: bool, **inner: Any) -> int:
    """Delete copies from the quarantine.

    The copy of a failed task is the only one: Aluma has deleted the task. A task that the exporter is working on is
    refused. Put "--" before an id that starts with a dash.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for confirmation; use --yes", context)
    config = load_config(merge_options(context.obj, inner))
    copies = selected_copies(read_copies(config).best, task_ids)
    busy = _busy(config)
    for copy in copies:
        if copy.task_id in busy:
            _refuse(copy, _BUSY)
    chosen = [copy for copy in copies if copy.task_id not in busy]
    if not chosen or not (yes or click.confirm(_question(chosen), err=True)):
        return INCOMPLETE
    deleted = sum(_delete(config, copy) for copy in chosen)
    click.echo(f"deleted {pluralize(deleted, 'task')} from the quarantine")
    return OK if deleted == len(set(task_ids)) else INCOMPLETE


def _delete(config: Config, copy: Copy) -> bool:
    """Delete a copy; return False, and print the reason, if it must stay."""
    folder = QuarantineFolder(config.quarantine_folder())
    try:
        with locked_copy(folder, copy):
            if copy.task_id in _busy(config):  # again, because the exporter may have claimed it since the question
                raise CopyLocked
            folder.remove(copy)
    except CopyLocked:
        _refuse(copy, _BUSY)
        return False
    except CopyChanged:
        _refuse(copy, "its copy has changed meanwhile; look at it again")
        return False
    except OSError as error:
        raise DestinationError(f"{copy.folder}: {error.strerror or error}") from None
    return True


def _refuse(copy: Copy, reason: str) -> None:
    click.echo(f"{sanitize(copy.task_id)}: not deleted: {reason}", err=True)


def _busy(config: Config) -> set[str]:
    """Return the ids of the tasks that a running exporter has claimed, or to which Fail is being sent."""
    state = config.state_folder()
    claims = [record for record in reader.read_records(state) if isinstance(record, ClaimRecord)]
    is_running = is_locked(state)
    return {claim.task_id for claim in claims if is_running or claim.state is ClaimState.FAILING}


def _question(copies: Sequence[Copy]) -> str:
    only = sum(copy.record.state is CopyState.FAILED for copy in copies)
    warning = f" Aluma has deleted {only} of them, so that this is the only copy." if only else ""
    return f"Delete {pluralize(len(copies), 'task')} from the quarantine?{warning}"
