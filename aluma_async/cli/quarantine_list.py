"""``quarantine list``: prints the copies in the quarantine. An exporter may run meanwhile."""

from typing import Any

import click

from aluma_async.cli.copies import completeness, copy_row, read_copies, require_quarantine
from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.output import ignore_closed_pipe, print_json
from aluma_async.clock import wall_time
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.service.formatting import format_bytes, format_duration, pluralize, sanitize


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON output: an array with an object per copy.")
@add_options("config", "state", "traceback")
@click.pass_context
def list_copies(context: click.Context, /, *, as_json: bool, **inner: Any) -> int:
    """List the copies, oldest first.

    Prints task id, what happened to the task, whether the copy is complete, its age and size, and the error.
    The exit code is 1 if a copy cannot be read.
    """
    config = load_config(merge_options(context.obj, inner))
    require_quarantine(config)
    found = read_copies(config)
    copies = sorted(found.all, key=lambda copy: (copy.record.stored_at, copy.task_id))
    with ignore_closed_pipe():
        if as_json:
            print_json([copy_row(copy) for copy in copies])
        else:
            for copy in copies:
                click.echo(_line(copy))
        used = format_bytes(QuarantineFolder(config.quarantine_folder()).used_bytes())
        maximum = config.exporter.quarantine_max_bytes
        tasks = len({copy.task_id for copy in copies})
        limit = f" of {format_bytes(maximum)}" if maximum else ""
        click.echo(f"{pluralize(tasks, 'task')} in the quarantine, {used}{limit}", err=True)
    return INCOMPLETE if found.unreadable else OK


def _line(copy: Copy) -> str:
    record = copy.record
    age = format_duration(wall_time() - record.stored_at) if record.stored_at else "?"
    again = ", redelivered" if record.redelivered_at is not None else ""
    return sanitize(
        f"{copy.task_id:<22}  {record.state:<6}  {completeness(copy_row(copy))}{again}  {age}  "
        f"{format_bytes(copy.size)}  {record.error}: {record.message}"
    )
