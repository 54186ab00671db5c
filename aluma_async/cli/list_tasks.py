"""``list``: prints the pending tasks, page by page as they arrive, or sorted at the end. Claims nothing."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import click
import msgspec

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import API, add_options, load_config, merge_options
from aluma_async.cli.output import ignore_closed_pipe, output_columns, wrap_parts
from aluma_async.cli.parameters import duration
from aluma_async.config import Config, Credentials
from aluma_async.events import Event, ListingIncomplete, ProjectUnmatched
from aluma_async.models import ExportTask
from aluma_async.service.formatting import format_duration, pluralize, sanitize

_SORT_KEYS: Mapping[str, Callable[[ExportTask], Any]] = {
    "age": lambda task: float("inf") if task.created_at is None else task.created_at,
    "name": lambda task: (task.name.casefold(), task.id),
    "project": lambda task: ((task.project_name or task.project_id).casefold(), task.name.casefold(), task.id),
}
_PROJECT_COLUMNS, _NAME_COLUMNS = 28, 40
_OTHER_COLUMNS = 22 + 3 * 2 + 10  # id, three gaps, age
_MIN_COLUMNS = 24  # project and name together


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON output: an array with an object per task.")
@click.option(
    "--destinations",
    is_flag=True,
    help="Possible destinations of each task, too; its files are known only after a claim.",
)
@click.option(
    "--sort",
    type=click.Choice(list(_SORT_KEYS)),
    help="Order; age: oldest first. Unsorted tasks are printed as they arrive.  [default: unsorted]",
)
@click.option("--older-than", type=duration, metavar="AGE", help="Minimum age: 90s, 30min, 2h or 3d, for example.")
@add_options(*API, "output", "project", "traceback")
@click.pass_obj
def list_tasks(outer: dict[str, Any], /, **inner: Any) -> int:
    """List the pending tasks.

    Prints id, project, name and age of each task, and claims nothing.
    """
    as_json, destinations, sort, older_than = (
        inner.pop(name) for name in ("as_json", "destinations", "sort", "older_than")
    )
    config = load_config(merge_options(outer, inner))
    with ignore_closed_pipe():
        anyio.run(_list, config, as_json, destinations, sort, older_than)
    return OK


@asynccontextmanager
async def pages(config: Config, credentials: Credentials) -> AsyncIterator[AsyncIterator[Sequence[ExportTask]]]:
    """Open a listing of the pending tasks. Raises ``AlumaAsyncError``, also while it is read."""
    from aluma_async.wiring import open_client  # imports aiohttp, which takes long, and --help does not need it

    def warn(event: Event) -> None:
        if isinstance(event, ProjectUnmatched):
            text = f"no pending task is in project {event.project!r}{event.suggestion}"
            click.echo(f"warn  {sanitize(text)}", err=True)
        elif isinstance(event, ListingIncomplete):
            click.echo(f"warn  the listing does not show all pending tasks: {sanitize(event.reason)}", err=True)

    async with open_client(config, credentials, on_event=warn) as client, aclosing(client.list_pending()) as listing:  # type: ignore[type-var]
        yield listing


async def _list(
    config: Config, as_json: bool, show_destinations: bool, sort: str | None, older_than: float | None
) -> None:
    count, now = 0, time.time()
    possible = config.routing().possible_destinations if show_destinations else None
    row, opening, between, closing = (_json_row, "[\n", ",\n", "\n]\n") if as_json else (text_row, "", "\n", "\n")
    async with pages(config, config.credentials()) as listing:
        async for tasks in _filter_and_sort(listing, sort, None if older_than is None else now - older_than):
            # If the listing fails, the array stays open, so that a reader does not take it for complete.
            click.echo(
                (between if count else opening)
                + between.join(row(task, now, possible(task) if possible else None) for task in tasks),
                nl=False,
            )
            count += len(tasks)
    if count or as_json:
        click.echo(closing if count else "[]\n", nl=False)
    click.echo(f"{pluralize(count, 'task')} pending", err=True)


async def _filter_and_sort(
    listing: AsyncIterator[Sequence[ExportTask]], sort: str | None, before: float | None
) -> AsyncIterator[Sequence[ExportTask]]:
    """Yield the tasks created before a moment: page by page, or sorted at the end."""
    unsorted: list[ExportTask] = []
    async for page in listing:
        tasks = page if before is None else [task for task in page if _created_before(task, before)]
        if sort:
            unsorted += tasks
        elif tasks:
            yield tasks
    if unsorted:
        yield sorted(unsorted, key=_SORT_KEYS[sort or "age"])


def _created_before(task: ExportTask, moment: float) -> bool:
    return task.created_at is not None and task.created_at < moment


def text_row(task: ExportTask, now: float, destinations: Iterable[str] | None, note: str = "") -> str:
    """Return the line of a task, wrapped to the terminal."""
    columns = output_columns()
    project, name = _widths(columns)
    age = "?" if task.created_at is None else format_duration(now - task.created_at)
    row = (
        f"{sanitize(task.id, 40):<22}  {sanitize(task.project_name or task.project_id, project):<{project}}"
        f"  {sanitize(task.name, name):<{name}}  {age}"
    )
    target = "" if destinations is None else f"-> {', '.join(destinations) or 'nowhere'}"
    return "\n".join(wrap_parts("", (row, target, note), columns))


def _widths(columns: int | None) -> tuple[int, int]:
    """Return the widths of project and name on a terminal of this width."""
    if columns is None:
        return _PROJECT_COLUMNS, _NAME_COLUMNS
    free = max(_MIN_COLUMNS, columns - _OTHER_COLUMNS)
    project = free * 2 // 5
    return min(_PROJECT_COLUMNS, project), min(_NAME_COLUMNS, free - project)


def _json_row(task: ExportTask, now: float, destinations: Sequence[str] | None) -> str:
    created_at = task.created_at
    fields = {
        "id": task.id,
        "project_id": task.project_id,
        "project_name": task.project_name,
        "name": task.name,
        "created_at": None if created_at is None else datetime.fromtimestamp(created_at, UTC).isoformat(),
        "age_seconds": None if created_at is None else round(now - created_at),
    }
    return msgspec.json.encode(fields if destinations is None else {**fields, "destinations": destinations}).decode()
