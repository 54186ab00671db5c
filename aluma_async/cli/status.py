"""``status``: prints claims, holds and quarantined tasks, from the state folder. An exporter may run meanwhile."""

from pathlib import Path
from typing import Any

import click

from aluma_async.cli.copies import Row, completeness, copy_row, iso_time, read_copies
from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.cli.output import print_json
from aluma_async.clock import system_clock
from aluma_async.config import Config
from aluma_async.journal import reader
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp
from aluma_async.policy.deadline import seconds_left
from aluma_async.policy.lease import elapsed, remaining
from aluma_async.quarantine.folder import Copy
from aluma_async.service.formatting import describe_deadline, format_duration, pluralize, sanitize

_TITLES = {
    "in_hand": "in progress",
    "cooling_down": "cooling down",
    "parked": "parked",
    "quarantined": "in the quarantine",
}
"""JSON key -> title in the text output."""
_STATES = {
    ClaimState.STARTING: "being exported",
    ClaimState.CLAIMED: "being exported",
    ClaimState.COMMITTED: "all files saved, to be completed",
    ClaimState.FAILING: "in the quarantine, to be failed",
    ClaimState.ORPHANED: "to be released",
}
_DAY_SECONDS = 86400


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
        print_json({"state": str(folder), **recent, **rows})
        return OK
    click.echo(f"state folder: {folder}")
    last_export = "" if last is None else f", the last one {format_duration(last)} ago"
    click.echo(f"exported in the last 24 h: {exported:,}{last_export}")
    for key, title in _TITLES.items():
        click.echo(f"{title}: {len(rows[key])}")
        for row in rows[key]:
            click.echo("  " + sanitize(_line(row)))
    return OK


def _rows(config: Config, now: Timestamp) -> dict[str, list[Row]]:
    records = reader.read_records(config.state_folder())
    copies = read_copies(config)
    rows: dict[str, list[Row]] = {key: [] for key in _TITLES}
    for record in records:
        if isinstance(record, ClaimRecord):
            rows["in_hand"].append(_claim_row(record, now))
        elif remaining(record.since, record.seconds, now) > 0:
            row = _hold_row(record, now, config.aluma.task_deadline_seconds, copies.get(record.task_id))
            rows["parked" if record.parked else "cooling_down"].append(row)
    rows["quarantined"] = [copy_row(copy) for copy in sorted(copies.values(), key=lambda copy: copy.folder)]
    return rows


def _claim_row(claim: ClaimRecord, now: Timestamp) -> Row:
    since = claim.start_unconfirmed_at or claim.sent_at if claim.state is ClaimState.ORPHANED else claim.sent_at
    return {"task": claim.task_id, "step": str(claim.state), "seconds": round(elapsed(since, now))}


def _hold_row(hold: HoldRecord, now: Timestamp, deadline_seconds: float, copy: Copy | None) -> Row:
    left = seconds_left(hold.created_at, deadline_seconds, now.wall)
    return {
        "task": hold.task_id,
        "retry_in_seconds": round(remaining(hold.since, hold.seconds, now)),
        "failures": hold.failures,
        "crashes": hold.crashes,
        "error": hold.error,
        "message": hold.message,
        "created_at": iso_time(hold.created_at),
        "age_seconds": None if hold.created_at is None else round(now.wall - hold.created_at),
        "seconds_left": None if left is None else round(left),
        "copy": copy and copy_row(copy),
    }


def _recent_exports(folder: Path, now: Timestamp) -> tuple[int, int | None]:
    """Return the number of tasks exported in the last 24 hours, and the seconds since the last one."""
    count, last = 0, 0.0
    for record in reader.read_history(folder, now.wall - _DAY_SECONDS):
        count, last = count + 1, record.at
    return count, max(0, round(now.wall - last)) if count else None


def _line(row: Row) -> str:
    parts = [str(row["task"])]
    if "step" in row:
        age = format_duration(float(str(row["seconds"])))
        parts.append(f"{_STATES[ClaimState(str(row['step']))]}, started {age} ago")
    if "retry_in_seconds" in row:
        delay = format_duration(float(str(row["retry_in_seconds"])))
        parts.append(f"retry in {delay}, {pluralize(int(str(row['failures'])), 'failure')}")
    if "message" in row:
        parts.append(f"{row['error']}: {row['message']}")
    if "folder" in row:
        parts += [str(row["folder"]), f"{row['state']}, {completeness(row)}"]
    if "copy" in row:
        parts.append(describe_deadline(_seconds(row["age_seconds"]), _seconds(row["seconds_left"])))
        parts.append(completeness(row["copy"]) if isinstance(row["copy"], dict) else "no copy")
    return "  ".join(filter(None, parts))


def _seconds(value: object) -> float | None:
    return None if value is None else float(str(value))
