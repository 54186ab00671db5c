"""``status``: prints claims, holds and quarantined tasks, from the state folder. An exporter may run meanwhile."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aluma_async.cli.copies import Row, copy_row, iso_time, read_copies
from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.output import ignore_closed_pipe, output_columns, print_json
from aluma_async.cli.state import existing_state_folder
from aluma_async.cli.status_text import status_lines
from aluma_async.clock import system_clock
from aluma_async.config import Config
from aluma_async.journal import reader
from aluma_async.models import BreakerRecord, ClaimRecord, ClaimState, HoldRecord, Timestamp
from aluma_async.pipeline.breaker import MAX_FAILED_TASKS
from aluma_async.policy.deadline import seconds_left
from aluma_async.policy.lease import elapsed, remaining
from aluma_async.quarantine.folder import Copy, best_copies
from aluma_async.service.formatting import format_duration

_KEYS = ("in_hand", "cooling_down", "parked", "quarantined", "failure_limits")
"""Keys of the JSON output."""
_DAY_SECONDS = 86400
_MAX_SECONDS = 1e11
"""A longer time, 3,000 years, comes from a clock that was set back or from a damaged record."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON output: an object.")
@add_options("config", "state", "traceback")
@click.pass_obj
def status(outer: dict[str, Any], /, *, as_json: bool, **inner: Any) -> int:
    """Show tasks in progress, on hold, quarantined.

    Reads the state folder only; sends nothing to Aluma.
    """
    config = load_config(merge_options(outer, inner))
    folder, now = config.state_folder(), system_clock()
    rows = _rows(config, now)
    exported, last = _recent_exports(folder, now)
    if as_json:
        recent = {"exported_in_24_hours": exported, "seconds_since_last_export": last}
        print_json({"state": str(folder), **recent, **rows})  # also without a folder, so that scripts can read it
        existing_state_folder(config)
        return OK
    existing_state_folder(config)
    click.echo(f"state folder: {folder}")
    last_export = "" if last is None else f", the last one {format_duration(last)} ago"
    click.echo(f"exported in the last 24 h: {exported:,}{last_export}")
    with ignore_closed_pipe():
        for line in status_lines(rows, output_columns()):
            click.echo(line)
    return OK


def _rows(config: Config, now: Timestamp) -> dict[str, list[Row]]:
    records = reader.read_records(config.state_folder())
    found = read_copies(config).all
    copies = best_copies(found)
    rows: dict[str, list[Row]] = {key: [] for key in _KEYS}
    for record in records:
        if isinstance(record, ClaimRecord):
            rows["in_hand"].append(_claim_row(record, now))
        elif isinstance(record, HoldRecord) and remaining(record.since, record.seconds, now) > 0:
            row = _hold_row(record, now, config.aluma.task_deadline_seconds, copies.get(record.task_id))
            rows["parked" if record.parked else "cooling_down"].append(row)
    rows["quarantined"] = [copy_row(copy) for copy in sorted(found, key=lambda copy: copy.folder)]
    rows["failure_limits"] = list(_limit_rows(records, rows["parked"], copies))
    return rows


def _limit_rows(records: Iterable[object], parked: Sequence[Row], copies: Mapping[str, Copy]) -> Iterator[Row]:
    """Yield a row for each kind of tasks of which the exporter fails no more by itself."""
    failed = Counter(record.kind for record in records if isinstance(record, BreakerRecord))
    for (reason, project, *destinations), count in failed.items():
        if count >= MAX_FAILED_TASKS:
            alike = [str(row["task"]) for row in parked if row["error"] == reason]
            tasks = [copies[task_id].record.task for task_id in alike if task_id in copies]
            yield {
                "error": reason,
                "project": project,
                "destinations": destinations,
                "failed": count,
                "parked": sum(task.project_id == project for task in tasks),
            }


def _claim_row(claim: ClaimRecord, now: Timestamp) -> Row:
    since = claim.start_unconfirmed_at or claim.sent_at if claim.state is ClaimState.ORPHANED else claim.sent_at
    return {"task": claim.task_id, "step": str(claim.state), "seconds": _whole(max(0.0, elapsed(since, now)))}


def _hold_row(hold: HoldRecord, now: Timestamp, deadline_seconds: float, copy: Copy | None) -> Row:
    left = seconds_left(hold.created_at, deadline_seconds, now.wall)
    return {
        "task": hold.task_id,
        "retry_in_seconds": _whole(remaining(hold.since, hold.seconds, now)),
        "failures": hold.failures,
        "crashes": hold.crashes,
        "error": hold.error,
        "message": hold.message,
        "created_at": iso_time(hold.created_at),
        "age_seconds": None if hold.created_at is None else _whole(now.wall - hold.created_at),
        "seconds_left": None if left is None else _whole(left),
        "copy": copy and copy_row(copy),
    }


def _whole(seconds: float) -> int | None:
    """Return the seconds as an integer; None if they are impossible."""
    return round(seconds) if abs(seconds) <= _MAX_SECONDS else None


def _recent_exports(folder: Path, now: Timestamp) -> tuple[int, int | None]:
    """Return the number of tasks exported in the last 24 hours, and the seconds since the last one."""
    count, last = 0, 0.0
    for record in reader.read_history(folder, now.wall - _DAY_SECONDS):
        count, last = count + 1, record.at
    return count, _whole(max(0.0, now.wall - last)) if count else None
