"""Helpers for the commands that show, deliver or remove copies in the quarantine."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import click
from msgspec import Struct

from aluma_async.cli.options import load_config, merge_options
from aluma_async.cli.state import existing_state_folder
from aluma_async.config import Config
from aluma_async.exceptions import AlumaAsyncError, JournalError
from aluma_async.quarantine.folder import MAX_NAMES, UNREADABLE, Copy, QuarantineFolder, best_copies
from aluma_async.quarantine.records import folder_names
from aluma_async.service.formatting import pluralize, sanitize

Row: TypeAlias = dict[str, object]

DELETE_HINT = "'aluma-async quarantine list' lists the copies."


_PERMISSIONS_HINT = "Check the permissions, or run the command as the user of the exporter."


class Copies(Struct, frozen=True):
    """The copies in a quarantine."""

    all: Sequence[Copy]
    """All copies, ordered by folder."""
    unreadable: Collection[str] = ()
    """Names of the folders that cannot be read; what they contain is not known."""

    @property
    def best(self) -> dict[str, Copy]:
        """The best copy of each task, by its id."""
        return best_copies(self.all)

    def difference(self, copy: Copy) -> str:
        """Return how a copy differs from another one of the same Export Specification; empty if it does not."""
        spec = copy.record.specification
        for other in self.all:
            same_spec = other.record.specification
            if other.task_id != copy.task_id or not (spec and same_spec and spec.sha256 == same_spec.sha256):
                continue
            for number, sha256 in other.hashes.items():
                if sha256 and copy.hashes.get(number, "") not in ("", sha256):
                    return f"file {number} is different in {other.folder.name} and {copy.folder.name}"
        return ""

    def may_have_another(self, task_id: str) -> bool:
        """Return whether a folder that cannot be read may contain a copy of a task."""
        return not set(islice(folder_names(task_id), MAX_NAMES)).isdisjoint(self.unreadable)


def read_copies(config: Config) -> Copies:
    """Read the quarantine, which may be missing; print which copies cannot be read. Raises ``JournalError``."""
    folder = QuarantineFolder(config.quarantine_folder())
    try:
        copies, problems = folder.copies()
    except OSError as error:
        raise JournalError(f"quarantine {folder.path}: {error.strerror}", hint=_PERMISSIONS_HINT) from None
    for problem in problems:
        click.echo(sanitize(problem), err=True)
    return Copies(copies, {Path(problem.partition(UNREADABLE)[0]).name for problem in problems})


def require_quarantine(config: Config) -> None:
    """Raise ``AlumaAsyncError`` if there is no quarantine, because it could be that of another state folder."""
    existing_state_folder(config)
    path = config.quarantine_folder()
    try:
        exists = path.is_dir()
    except OSError as error:
        raise JournalError(f"quarantine {path}: {error.strerror}", hint=_PERMISSIONS_HINT) from None
    if not exists:
        hint = "If that is the state folder of the exporter, no copy was ever stored."
        raise AlumaAsyncError(f"quarantine {path}: does not exist", hint=hint)


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
