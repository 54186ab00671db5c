"""``history``: what was exported, when and where to, from the journal in the state folder. An exporter may run."""

import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.list_tasks import duration
from aluma_async.cli.options import load_config, merge_options, shared_options, state_option
from aluma_async.clock import system_clock
from aluma_async.journal import sqlite
from aluma_async.models import ExportRecord
from aluma_async.service.formatting import format_bytes, pluralize, sanitize


def moment(text: str) -> float:
    """Read a moment: so long ago (``2h``), or a date with or without a time (UTC, if it names no other)."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return system_clock().wall - duration(text)
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="An object a line.")
@click.option("--since", type=moment, metavar="WHEN", help="Of the last 90s, 30min, 2h, 3d; or a date.")
@click.option("--task", "task_id", metavar="TASK_ID", default="", help="Only of this task.")
@state_option
@shared_options
@click.pass_obj
def history(outer: dict[str, Any], /, *, as_json: bool, since: float | None, task_id: str, **inner: Any) -> int:
    """Show what was exported, oldest first: when, task, files, bytes, seconds, destinations.

    The journal keeps the last 100,000 tasks of 90 days.
    """
    folder = load_config(merge_options(outer, inner)).state_folder()
    count = 0
    try:
        for record in _for_task(sqlite.read_history(folder, since or 0.0), task_id):
            click.echo(_json_row(record) if as_json else _text_row(record))
            count += 1
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough; nor may Python's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        click.echo(f"{pluralize(count, 'task')} exported", err=True)
    return OK


def _for_task(records: Iterable[ExportRecord], task_id: str) -> Iterator[ExportRecord]:
    return (record for record in records if task_id in ("", record.task_id))


def _when(record: ExportRecord) -> str:
    return datetime.fromtimestamp(record.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text_row(record: ExportRecord) -> str:
    return (
        f"{_when(record)}  {sanitize(record.task_id, 40):<22}  {pluralize(record.files, 'file'):>9}"
        f"  {format_bytes(record.bytes):>9}  {record.seconds:6.1f} s  {', '.join(record.destinations) or '?'}"
    )


def _json_row(record: ExportRecord) -> str:
    fields = {
        "time": _when(record),
        "task": record.task_id,
        "files": record.files,
        "bytes": record.bytes,
        "seconds": round(record.seconds, 3),
        "destinations": record.destinations,
    }
    return msgspec.json.encode(fields).decode()
