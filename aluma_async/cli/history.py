"""``history``: prints the exported tasks, from the journal in the state folder. An exporter may run meanwhile."""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.output import ignore_closed_pipe, output_columns, wrap_parts
from aluma_async.cli.parameters import moment
from aluma_async.cli.state import existing_state_folder
from aluma_async.journal import reader
from aluma_async.models import ExportRecord
from aluma_async.service.formatting import format_bytes, pluralize, sanitize

_MAX_NAME_LENGTH = 76
"""Characters shown of a name, so that it fits into a line of a narrow terminal."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output: an object per line.")
@click.option(
    "--since",
    type=moment,
    metavar="WHEN",
    help="Start of the period: an age (90s, 30min, 2h, 3d) or a date.  [default: all]",
)
@click.option("--task", "task_id", metavar="TASK_ID", default="", help="Id of the only task to print.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the last N of them.  [default: all]")
@add_options("config", "state", "traceback")
@click.pass_obj
def history(
    outer: dict[str, Any],
    /,
    *,
    as_json: bool,
    since: float | None,
    task_id: str,
    limit: int | None,
    **inner: Any,
) -> int:
    """List exported tasks, newest last.

    Prints time, task id, number of files, bytes, duration and destinations; with history_names = true also the names
    of task and project. The journal keeps the last 100,000 tasks of 90 days, without the names of files.
    """
    folder = existing_state_folder(load_config(merge_options(outer, inner)))
    with ignore_closed_pipe():
        count, columns = 0, output_columns()
        records = _for_task(reader.read_history(folder, since or 0.0), task_id)
        for record in deque(records, limit) if limit else records:  # without a limit, page by page as they are read
            click.echo(_json_row(record) if as_json else "\n".join(_text_lines(record, columns)))
            count += 1
        click.echo(f"{pluralize(count, 'task')} exported", err=True)
    return OK


def _for_task(records: Iterable[ExportRecord], task_id: str) -> Iterator[ExportRecord]:
    return (record for record in records if task_id in ("", record.task_id))


def _iso_time(record: ExportRecord) -> str:
    return datetime.fromtimestamp(record.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text_lines(record: ExportRecord, columns: int | None) -> Iterator[str]:
    """Return one line of at most 80 columns, or several if there are names, or long names of destinations."""
    numbers = f"{pluralize(record.files, 'file'):>8} {format_bytes(record.bytes):>8} {record.seconds:5.1f} s"
    start = f"{_iso_time(record)}  {sanitize(record.task_id, 40):<22} {numbers}"
    project, name = sanitize(record.project, _MAX_NAME_LENGTH), sanitize(record.name, _MAX_NAME_LENGTH)
    return wrap_parts("", (start, ", ".join(record.destinations) or "?", project, name), columns)


def _json_row(record: ExportRecord) -> str:
    fields: dict[str, object] = {
        "time": _iso_time(record),
        "task": record.task_id,
        "files": record.files,
        "bytes": record.bytes,
        "seconds": round(record.seconds, 3),
        "destinations": record.destinations,
    }
    if record.name or record.project:
        fields |= {"name": record.name, "project": record.project}
    return msgspec.json.encode(fields).decode()
