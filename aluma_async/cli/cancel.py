"""``cancel``: give a claimed task back at Aluma, so that it waits again, without waiting for Aluma's time-out.

Aluma cannot tell who holds a claim. So what an exporter on this state folder has in hand is refused, and of all
others whoever asks must be sure that nobody works on it: that one would lose its claim.
"""

import sys
from typing import Any

import anyio
import click

from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import load_config, merge_options, shared_options, state_option
from aluma_async.config import Config
from aluma_async.exceptions import Ambiguous, ClaimConflict
from aluma_async.journal import sqlite
from aluma_async.models import ClaimRecord, ClaimState, ExportTask
from aluma_async.pipeline.claim_source import CLAIMED
from aluma_async.service.formatting import sanitize

_SETTLED_BY_NEXT_RUN = (ClaimState.COMMITTED, ClaimState.FAILING)


@click.command()
@click.argument("task_id")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@state_option
@shared_options
@click.pass_context
def cancel(context: click.Context, /, *, task_id: str, yes: bool, **inner: Any) -> int:
    """Give a claimed task back at Aluma: it waits for export again.

    For a task that an exporter has left claimed which does not come back. A task whose id begins with a dash goes
    behind "--".
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: say --yes", context)
    return anyio.run(_cancel, load_config(merge_options(context.obj, inner)), task_id, yes)


async def _cancel(config: Config, task_id: str, yes: bool) -> int:
    from aluma_async.wiring import open_client

    task, name = ExportTask(task_id), sanitize(task_id, 80)
    async with open_client(config) as client:
        state = await client.state(task)
        if state is None:
            return _refuse(f"Aluma knows no task {name}", "It may have been exported: 'aluma-async history'.")
        if state != CLAIMED:
            return _refuse(f"task {name} is not claimed: {sanitize(state, 80)}", "There is nothing to give back.")
        # After the state: a claim of ours stands in the journal before it is made.
        if reason := _reason_to_refuse(config, task_id):
            return _refuse(f"task {name} {reason[0]}", reason[1])
        if not yes:
            question = f"Task {name} is claimed. If another exporter works on it, it is exported twice. Give it back?"
            if not click.confirm(question, err=True):
                return INCOMPLETE
        try:
            await client.cancel(task)
        except ClaimConflict as error:
            return _refuse(str(error), "It was settled meanwhile.")
        except Ambiguous as error:
            return _refuse(str(error), "It may have been given back or not; say it again.")
    click.echo(f"task {name} is given back")
    return OK


def _reason_to_refuse(config: Config, task_id: str) -> tuple[str, str] | None:
    """Tell why a task is not to be given back behind the back of an exporter on this state folder."""
    folder = config.state_folder()
    claims = [record for record in sqlite.read_records(folder) if isinstance(record, ClaimRecord)]
    claim = next((claim for claim in claims if claim.task_id == task_id), None)
    if claim and sqlite.is_locked(folder):
        return f"is in hand of the exporter on {folder}", "That one completes it, or gives it back; or stop it first."
    if claim and claim.step in _SETTLED_BY_NEXT_RUN:
        return "is saved, and only Aluma has not been told yet", "The next run on this state folder tells it."
    return None


def _refuse(reason: str, hint: str) -> int:
    click.echo(f"aluma-async: {reason}\n{hint}", err=True)
    return INCOMPLETE
