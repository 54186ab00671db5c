"""``check`` and ``list``: look at the configuration and at what waits, and claim nothing."""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import click
import msgspec

from aluma_async.cli.exits import DONE, error_lines, exit_code
from aluma_async.cli.options import load_config, merged, shared_options
from aluma_async.config import Config, Credentials
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportTask
from aluma_async.policy.routing import Routing
from aluma_async.service.text import counted, printable, span


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, an object for each task.")
@click.option("--plan", is_flag=True, help="Also where its files may go; which of them is known when it is claimed.")
@shared_options
@click.pass_obj
def list_waiting(outer: dict[str, Any], /, *, as_json: bool, plan: bool, **inner: Any) -> int:
    """Show what waits: id, project, name, age."""
    try:
        anyio.run(_list, load_config(merged(outer, inner)), as_json, plan)
    except BrokenPipeError:  # whoever reads has seen enough; nor may Python's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


@click.command()
@shared_options
@click.pass_obj
def check(outer: dict[str, Any], /, **inner: Any) -> int:
    """Try config, credentials, Aluma and destination."""
    return anyio.run(_check, merged(outer, inner))


async def _list(config: Config, as_json: bool, plan: bool) -> None:
    count, now = 0, time.time()
    possible = config.routing().possible if plan else None
    row, opening, between, closing = (_json_row, "[\n", ",\n", "\n]\n") if as_json else (_text_row, "", "\n", "\n")
    async with _pages(config, config.credentials()) as pages:
        async for tasks in pages:
            # An array that is never closed tells of a listing that broke off.
            click.echo(
                (between if count else opening)
                + between.join(row(task, now, possible(task) if possible else None) for task in tasks),
                nl=False,
            )
            count += len(tasks)
    if count or as_json:
        click.echo(closing if count else "[]\n", nl=False)
    click.echo(f"{counted(count, 'task')} waiting", err=True)


def _text_row(task: ExportTask, now: float, to: Sequence[str] | None) -> str:
    age = "?" if task.created_at is None else span(now - task.created_at)
    project = printable(task.project_name or task.project_id, 28)
    return f"{printable(task.id, 40):<22}  {project:<28}  {printable(task.name, 40):<40}  {age}" + (
        "" if to is None else f"  -> {', '.join(to) or 'nowhere'}"
    )


def _json_row(task: ExportTask, now: float, to: Sequence[str] | None) -> str:
    made = task.created_at
    fields = {
        "id": task.id,
        "project_id": task.project_id,
        "project_name": task.project_name,
        "name": task.name,
        "created_at": None if made is None else datetime.fromtimestamp(made, UTC).isoformat(),
        "age_seconds": None if made is None else round(now - made),
    }
    return msgspec.json.encode(fields if to is None else {**fields, "destinations": to}).decode()


async def _check(options: dict[str, Any]) -> int:
    """Try one thing after the other, as far as what is known allows; the first failure gives the exit code."""
    codes: list[int] = []
    config, credentials = Config(), None
    with _part("config fields", codes):
        config = load_config(options)
    if codes:
        return codes[0]
    for warning in config.warnings():
        click.echo(f"warn  {warning}")
    with _part("routes", codes):
        for line in _plan(config.routing()):
            click.echo(f"      {line}")
    with _part("credentials found", codes):
        credentials = config.credentials()
    if credentials is not None:
        with _part(f"Aluma at {config.aluma.base_url}", codes):
            async with _pages(config, credentials) as pages:
                await anext(aiter(pages), None)
    if config.destinations:
        await _check_destinations(config, codes)
    return codes[0] if codes else DONE


async def _check_destinations(config: Config, codes: list[int]) -> None:
    from aluma_async.destinations.registry import open_destinations

    async with open_destinations(config.destinations, config.state_folder()) as destinations:
        for name, destination in destinations.items():
            with _part(f"{name}: {config.destinations[name].place}", codes):
                await destination.probe()


def _plan(routing: Routing) -> Iterator[str]:
    """Tell in words which files go where; nothing if all go to one place."""
    for route in routing.routes:
        wanted = {name: getattr(route, name) for name in ("project", "folder", "filename", "source")}
        fits = ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value) or "all"
        yield f"{fits} -> {', '.join(route.to)}"
    if routing.routes:
        yield f"all others -> {routing.default or 'nowhere: their tasks are not exported'}"


@contextmanager
def _part(label: str, codes: list[int]) -> Iterator[None]:
    try:
        yield
    except AlumaAsyncError as error:
        codes.append(exit_code(error))
        click.echo(f"FAIL  {label}: " + "\n      ".join(error_lines(error)))
    else:
        click.echo(f"ok    {label}")


@asynccontextmanager
async def _pages(config: Config, credentials: Credentials) -> AsyncIterator[AsyncIterator[Sequence[ExportTask]]]:
    from aluma_async.wiring import open_client  # aiohttp takes its time, and --help does not need it

    async with open_client(config, credentials) as client, aclosing(client.list_pending()) as pages:  # type: ignore[type-var]
        yield pages
