"""``status`` and ``retry``: look at what is held back, from the state folder, and release it. An exporter may run."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from aluma_async.cli.exit_codes import INCOMPLETE, OK
from aluma_async.cli.options import load_config, merge_options, shared_options, state_option
from aluma_async.clock import system_clock
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.journal import sqlite
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp
from aluma_async.pipeline.quarantine import RECORD_NAME
from aluma_async.policy.lease import elapsed, remaining
from aluma_async.service.formatting import format_duration, pluralize, sanitize

_IN_WORDS = {
    ClaimState.STARTING: "being exported",
    ClaimState.CLAIMED: "being exported",
    ClaimState.COMMITTED: "saved, to be completed",
    ClaimState.FAILING: "in the quarantine, to be failed",
    ClaimState.ORPHANED: "to be given back",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@state_option
@shared_options
@click.pass_obj
def status(outer: dict[str, Any], /, *, as_json: bool, **inner: Any) -> int:
    """Show what is in hand, cooling down, parked and in the quarantine."""
    config = load_config(merge_options(outer, inner))
    folder, now = config.state_folder(), system_clock()
    records = sqlite.read_records(folder)
    found: dict[str, list[dict[str, object]]] = {
        "in_hand": [_claim(record, now) for record in records if isinstance(record, ClaimRecord)],
        "cooling_down": [],
        "parked": [],
        "quarantined": list(_quarantined(config.quarantine_folder())),
    }
    for record in records:
        if isinstance(record, HoldRecord) and remaining(record.since, record.seconds, now) > 0:
            found["parked" if record.parked else "cooling_down"].append(_hold(record, now))
    exported, last = _lately(folder, now)
    if as_json:
        lately = {"exported_in_24_hours": exported, "seconds_since_last_export": last}
        click.echo(msgspec.json.format(msgspec.json.encode({"state": str(folder), **lately, **found})).decode())
        return OK
    click.echo(f"State in {folder}")
    click.echo(
        f"exported in the last 24 h: {exported:,}" + ("" if last is None else f", the last {format_duration(last)} ago")
    )
    for name, rows in found.items():
        click.echo(f"{name.replace('_', ' ')}: {len(rows)}")
        for row in rows:
            click.echo("  " + sanitize(_line(row)))
    return OK


def _completions(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Propose what is held back."""
    with suppress(AlumaAsyncError):
        outer = context.parent.params if context.parent else {}
        records = sqlite.read_records(load_config(merge_options(outer, context.params)).state_folder())
        return [one.task_id for one in records if isinstance(one, HoldRecord) and one.task_id.startswith(incomplete)]
    return []


@click.command()
@click.argument("task_ids", metavar="TASK_ID...", nargs=-1, shell_complete=_completions)
@click.option("--all", "everything", is_flag=True, help="All that are held back.")
@state_option
@shared_options
@click.pass_context
def retry(context: click.Context, /, *, task_ids: tuple[str, ...], everything: bool, **inner: Any) -> int:
    """Release tasks that are parked or cool down: they are tried at the next listing.

    A task whose id begins with a dash goes behind "--".
    """
    if bool(task_ids) == everything:
        raise click.UsageError("name the tasks to release, or --all", context)
    config = load_config(merge_options(context.obj, inner))
    folder = config.state_folder()
    held = {record.task_id for record in sqlite.read_records(folder) if isinstance(record, HoldRecord)}
    kept = {str(row["task"]): str(row["folder"]) for row in _quarantined(config.quarantine_folder())}
    wanted = sorted(held) if everything else task_ids
    found = [task_id for task_id in wanted if task_id in held]
    if found:
        sqlite.release_holds(folder, found)
    click.echo(f"released {pluralize(len(found), 'task')}")
    for task_id in wanted:
        if task_id in kept:
            click.echo(f"{task_id}: Aluma has deleted it; all that it held is in {kept[task_id]}", err=True)
        elif task_id not in held:
            click.echo(f"{sanitize(task_id)}: is not held back ('aluma-async status' shows what is)", err=True)
    return OK if len(found) == len(wanted) else INCOMPLETE


def _lately(folder: Path, now: Timestamp) -> tuple[int, int | None]:
    """Count what was exported in the last 24 hours, and tell how many seconds ago the last of it was."""
    count, at = 0, 0.0
    for record in sqlite.read_history(folder, now.wall - 86400):
        count, at = count + 1, record.at
    return count, max(0, round(now.wall - at)) if count else None


def _claim(claim: ClaimRecord, now: Timestamp) -> dict[str, object]:
    since = claim.doubted or claim.sent if claim.step is ClaimState.ORPHANED else claim.sent
    return {"task": claim.task_id, "step": str(claim.step), "seconds": round(elapsed(since, now))}


def _hold(hold: HoldRecord, now: Timestamp) -> dict[str, object]:
    return {
        "task": hold.task_id,
        "retry_in_seconds": round(remaining(hold.since, hold.seconds, now)),
        "failures": hold.failures,
        "crashes": hold.crashes,
        "error": hold.error,
        "message": hold.message,
    }


def _quarantined(folder: Path) -> Iterator[dict[str, object]]:
    for path in sorted(folder.glob(f"*/{RECORD_NAME}")):
        try:
            record = msgspec.json.decode(path.read_bytes())
            task_id, error, message = record["task"]["id"], record["error"], record["message"]
        except (OSError, ValueError, KeyError, TypeError) as why:
            click.echo(f"{path}: cannot be read: {type(why).__name__}", err=True)
            continue
        yield {"task": task_id, "folder": str(path.parent), "error": error, "message": message}


def _line(row: dict[str, object]) -> str:
    parts = [str(row["task"])]
    if "step" in row:
        parts.append(f"{_IN_WORDS[ClaimState(str(row['step']))]}, {format_duration(float(str(row['seconds'])))} ago")
    if "retry_in_seconds" in row:
        parts.append(f"again in {format_duration(float(str(row['retry_in_seconds'])))}, {row['failures']} failures")
    if "message" in row:
        parts.append(f"{row['error']}: {row['message']}")
    if "folder" in row:
        parts.append(str(row["folder"]))
    return "  ".join(parts)
