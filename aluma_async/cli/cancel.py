"""``cancel``: release a claim at Aluma, so that the task is pending again before the lease expires.

Aluma does not report who holds a claim. The command refuses to release a claim of a running exporter on this state
folder. For any other claim the administrator must be sure that no exporter works on the task, because that exporter
would lose its claim.
"""

import sys
from typing import Any

import anyio
import click

from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import API, add_options, load_config, merge_options
from aluma_async.config import Config
from aluma_async.exceptions import Ambiguous, ClaimConflict
from aluma_async.journal import reader
from aluma_async.journal.lock import is_locked
from aluma_async.models import ClaimRecord, ClaimState, ExportTask, TaskState
from aluma_async.service.formatting import sanitize

_SETTLED_BY_NEXT_RUN = (ClaimState.COMMITTED, ClaimState.FAILING)


@click.command()
@click.argument("task_id")
@click.option("-y", "--yes", is_flag=True, help="No confirmation prompt.")
@add_options(*API, "state", "traceback")
@click.pass_context
def cancel(context: click.Context, /, *, task_id: str, yes: bool, **inner: Any) -> int:
    """Release a claim left by a dead exporter.

    The task is pending again at once, instead of after the lease. Claims of a running exporter on this state folder are
    refused. Put "--" before an id that starts with a dash.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for confirmation; use --yes", context)
    return anyio.run(_cancel, load_config(merge_options(context.obj, inner)), task_id, yes)


async def _cancel(config: Config, task_id: str, yes: bool) -> int:
    from aluma_async.wiring import open_client

    task, name = ExportTask(task_id), sanitize(task_id, 80)
    async with open_client(config) as client:
        state = await client.state(task)
        if state is None:
            return _refuse(
                f"task {name}: unknown to Aluma", "Run 'aluma-async history' to see whether it was exported."
            )
        if state != TaskState.CLAIMED:
            return _refuse(f"task {name}: no claim to release, its state is {sanitize(state, 80)}")
        # Read the journal after the state: an exporter on this state folder records a claim before it makes it.
        if refusal := _reason_to_refuse(config, task_id):
            reason, hint = refusal
            return _refuse(f"task {name}: {reason}", hint)
        if not yes:
            question = f"Task {name} is claimed. If an exporter works on it, it is exported twice. Release the claim?"
            if not click.confirm(question, err=True):
                return INCOMPLETE
        try:
            await client.cancel(task)
        except ClaimConflict as error:
            return _refuse(str(error), "Check the task with 'aluma-async list': its claim was settled in the meantime.")
        except Ambiguous as error:
            return _refuse(str(error), "Run the command again: it is unknown whether the claim was released.")
    click.echo(f"task {name}: claim released")
    return OK


def _reason_to_refuse(config: Config, task_id: str) -> tuple[str, str] | None:
    """Return a reason and a hint if the journal of this state folder holds a claim that must not be released here."""
    folder = config.state_folder()
    claims = [record for record in reader.read_records(folder) if isinstance(record, ClaimRecord)]
    claim = next((claim for claim in claims if claim.task_id == task_id), None)
    if claim and is_locked(folder):
        return f"in progress in the exporter on {folder}", "Wait until that exporter settles it, or stop it first."
    if claim and claim.state in _SETTLED_BY_NEXT_RUN:
        reason = "all its files are saved, and only Complete or Fail is missing"
        return reason, "Start the exporter on this state folder: it settles the claim."
    return None


def _refuse(reason: str, hint: str = "") -> int:
    click.echo(f"aluma-async: {reason}" + (f"\n{hint}" if hint else ""), err=True)
    return INCOMPLETE
