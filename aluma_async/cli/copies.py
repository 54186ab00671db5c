"""Helpers for the commands that show, deliver or remove copies in the quarantine."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeAlias

import click

from aluma_async.cli.options import load_config, merge_options
from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError, JournalError
from aluma_async.quarantine.folder import Copy, QuarantineFolder, best_copies
from aluma_async.service.formatting import pluralize, sanitize

Row: TypeAlias = dict[str, object]

DELETE_HINT = "'aluma-async quarantine list' lists the copies."


def read_copies(config: Config) -> dict[str, Copy]:
    """Return the best copy of each task, by its id; print what cannot be read. Raises ``JournalError``."""
    return best_copies(all_copies(config))


def all_copies(config: Config) -> list[Copy]:
    """Return all copies, ordered by folder; print what cannot be read. Raises ``JournalError``."""
    folder = QuarantineFolder(config.quarantine_folder())
    try:
        copies, problems = folder.copies()
    except OSError as error:
        hint = "Check the permissions, or run the command as the user of the exporter."
        raise JournalError(f"quarantine {folder.path}: {error.strerror}", hint=hint) from None
    for problem in problems:
        click.echo(sanitize(problem), err=True)
    return copies


def selected_copies(copies: dict[str, Copy], task_ids: Sequence[str]) -> list[Copy]:
    """Return the copies of tasks, each once; print a line for each task without one."""
    wanted = dict.fromkeys(task_ids)
    for task_id in wanted:
        if task_id not in copies:
            click.echo(f"{sanitize(task_id)}: no copy in the quarantine; {DELETE_HINT}", err=True)
    return [copies[task_id] for task_id in wanted if task_id in copies]


def complete_task_ids(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Propose the ids of tasks with a copy, for shell completion."""
    with suppress(AlumaAsyncError, OSError):
        outer = context.find_root().params
        config = load_config(merge_options(outer, context.params))
        copies, _problems = QuarantineFolder(config.quarantine_folder()).copies()
        return sorted({copy.task_id for copy in copies if copy.task_id.startswith(incomplete)})
    return []


def copy_row(copy: Copy) -> Row:
    """Return a copy as a JSON object."""
    record = copy.record
    return {
        "task": copy.task_id,
        "folder": str(copy.folder),
        "error": record.error,
        "message": record.message,
        "state": str(record.state),
        "complete": copy.is_complete,
        "missing": len(copy.missing),
        "files": len(record.files),
        "bytes": copy.size,
        "stored_at": iso_time(record.stored_at or None),
        "redelivered_at": iso_time(record.redelivered_at),
    }


def completeness(row: Row) -> str:
    """Return in words whether the copy of a row is complete."""
    missing = int(str(row["missing"]))
    return "complete copy" if row["complete"] else f"incomplete copy: {pluralize(missing, 'file')} missing"


def iso_time(seconds: float | None) -> str | None:
    """Return a time as ISO 8601; None if it is not known or no time at all, as in a damaged record."""
    with suppress(ValueError, OverflowError, OSError):
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return None
