"""``list``: what waits for export; told as it comes, or sorted. Claims nothing."""

import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import anyio
import click
import msgspec

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import load_config, merge_options, shared_options
from aluma_async.cli.pages import pages
from aluma_async.config import Config
from aluma_async.models import ExportTask
from aluma_async.service.formatting import format_duration, pluralize, sanitize

_ORDERS: Mapping[str, Callable[[ExportTask], Any]] = {
    "age": lambda task: float("inf") if task.created_at is None else task.created_at,
    "name": lambda task: (task.name.casefold(), task.id),
    "project": lambda task: ((task.project_name or task.project_id).casefold(), task.name.casefold(), task.id),
}
_PROJECT, _NAME = 28, 40
_OTHER_COLUMNS = 22 + 3 * 2 + 10  # of id, gaps and age
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Read seconds with their unit: ``90s``, ``30min``, ``2h``, ``3d``; seconds without one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|d)?", text)
    if not match:
        raise click.BadParameter(f"{text!r} is not like 90s, 30min, 2h or 3d")
    return float(match[1]) * _UNITS[match[2] or "s"]


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, an object for each task.")
@click.option(
    "--destinations", is_flag=True, help="Also where its files may go; which of them is known when it is claimed."
)
@click.option("--sort", type=click.Choice(list(_ORDERS)), help="Oldest first, or by name; unsorted it comes at once.")
@click.option("--older-than", type=duration, metavar="AGE", help="Only what waits for longer: 90s, 30min, 2h, 3d.")
@shared_options
@click.pass_obj
def list_tasks(outer: dict[str, Any], /, **inner: Any) -> int:
    """Show what waits: id, project, name, age."""
    as_json, destinations, sort, older_than = (
        inner.pop(name) for name in ("as_json", "destinations", "sort", "older_than")
    )
    try:
        anyio.run(_list, load_config(merge_options(outer, inner)), as_json, destinations, sort, older_than)
    except BrokenPipeError:  # whoever reads has seen enough; nor may Python's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


async def _list(
    config: Config, as_json: bool, show_destinations: bool, sort: str | None, older_than: float | None
) -> None:
    count, now = 0, time.time()
    possible = config.routing().possible_destinations if show_destinations else None
    row, opening, between, closing = (_json_row, "[\n", ",\n", "\n]\n") if as_json else (_text_row, "", "\n", "\n")
    async with pages(config, config.credentials()) as listing:
        async for tasks in _filter_and_sort(listing, sort, None if older_than is None else now - older_than):
            # An array that is never closed tells of a listing that broke off.
            click.echo(
                (between if count else opening)
                + between.join(row(task, now, possible(task) if possible else None) for task in tasks),
                nl=False,
            )
            count += len(tasks)
    if count or as_json:
        click.echo(closing if count else "[]\n", nl=False)
    click.echo(f"{pluralize(count, 'task')} waiting", err=True)


async def _filter_and_sort(
    listing: AsyncIterator[Sequence[ExportTask]], sort: str | None, before: float | None
) -> AsyncIterator[Sequence[ExportTask]]:
    """Yield what was made before a moment: as it comes, or all at the end, in order."""
    selected: list[ExportTask] = []
    async for tasks in listing:
        found = tasks if before is None else [task for task in tasks if _created_before(task, before)]
        if sort:
            selected += found
        elif found:
            yield found
    if selected:
        yield sorted(selected, key=_ORDERS[sort or "age"])


def _created_before(task: ExportTask, moment: float) -> bool:
    return task.created_at is not None and task.created_at < moment


def _text_row(task: ExportTask, now: float, destinations: Iterable[str] | None) -> str:
    project, name = _widths()
    age = "?" if task.created_at is None else format_duration(now - task.created_at)
    return (
        f"{sanitize(task.id, 40):<22}  {sanitize(task.project_name or task.project_id, project):<{project}}"
        f"  {sanitize(task.name, name):<{name}}  {age}"
    ) + ("" if destinations is None else f"  -> {', '.join(destinations) or 'nowhere'}")


@cache
def _widths() -> tuple[int, int]:
    """Columns for project and name: as many as the terminal has room for; elsewhere there is always room."""
    try:
        room = max(24, os.get_terminal_size(sys.stdout.fileno()).columns - _OTHER_COLUMNS)
    except (OSError, ValueError):  # no terminal
        return _PROJECT, _NAME
    return min(_PROJECT, room * 2 // 5), min(_NAME, room - room * 2 // 5)


def _json_row(task: ExportTask, now: float, destinations: Sequence[str] | None) -> str:
    made = task.created_at
    fields = {
        "id": task.id,
        "project_id": task.project_id,
        "project_name": task.project_name,
        "name": task.name,
        "created_at": None if made is None else datetime.fromtimestamp(made, UTC).isoformat(),
        "age_seconds": None if made is None else round(now - made),
    }
    return msgspec.json.encode(fields if destinations is None else {**fields, "destinations": destinations}).decode()
