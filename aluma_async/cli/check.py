"""``check``: try the configuration in three layers, a verdict a line, and claim nothing.

Config (what was written), wiring (whether it fits together), environment (whether the world is as it says).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import click

from aluma_async.cli.exit_codes import OK, error_lines, exit_code
from aluma_async.cli.options import load_config, merge_options, shared_options, state_option
from aluma_async.cli.pages import pages
from aluma_async.config import Config, Credentials
from aluma_async.config.paths import find_config_file
from aluma_async.exceptions import AlumaAsyncError, JournalError
from aluma_async.journal import sqlite
from aluma_async.policy.routing import Routing


@click.command()
@click.option("--config-only", is_flag=True, help="Config and wiring only: connect to nothing and write nothing.")
@state_option
@shared_options
@click.pass_obj
def check(outer: dict[str, Any], /, *, config_only: bool, **inner: Any) -> int:
    """Try config, wiring and environment: a verdict for each.

    Claims nothing. The exit code is that of the first failure.
    """
    return anyio.run(_check, merge_options(outer, inner), config_only)


async def _check(options: dict[str, Any], config_only: bool) -> int:
    codes: list[int] = []
    config = Config()
    with _step(f"config: {_config_source(options)}", codes):
        config = load_config(options)
    if codes:
        return codes[0]
    for warning in (*config.warnings(), *_ignored_settings(config)):
        click.echo(f"warn  config: {warning}")
    await _check_wiring(config, codes)
    if not config_only:
        await _check_environment(config, codes)
    return codes[0] if codes else OK


async def _check_wiring(config: Config, codes: list[int]) -> None:
    from aluma_async.destinations.registry import open_destinations
    from aluma_async.wiring import open_client

    with _step("wiring: routes", codes):
        for line in _route_lines(config.routing()):
            click.echo(f"      {line}")
    for name, destination in config.destinations.items():
        with _step(f"wiring: destination {name}", codes):
            async with open_destinations({name: destination}, config.state_folder()):
                pass
    with _step("wiring: connection to Aluma", codes):
        async with open_client(config, Credentials("", "")):  # sends nothing yet
            pass


async def _check_environment(config: Config, codes: list[int]) -> None:
    from aluma_async.destinations.registry import open_destinations

    state = config.state_folder()
    with _step(f"environment: state folder {state}", codes):
        await anyio.to_thread.run_sync(_try_state, state)
    credentials = None
    with _step("environment: credentials found", codes):
        credentials = config.credentials()
    if credentials is not None:
        with _step(f"environment: Aluma at {config.aluma.base_url}", codes):
            async with pages(config, credentials) as listing:
                await anext(aiter(listing), None)
    for name, destination in config.destinations.items():
        try:
            async with open_destinations({name: destination}, state) as opened:
                with _step(f"environment: {name}: {destination.description}", codes):
                    await opened[name].probe()
                if warning := getattr(opened[name], "warning", ""):
                    click.echo(f"warn  environment: {name}: {warning}")
        except AlumaAsyncError:  # cannot even be opened, as was said of the wiring
            continue


def _try_state(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise JournalError(
            f"cannot be written: {error.strerror}", hint="May this user write there? --state names another folder."
        ) from None
    sqlite.read_records(folder)


def _config_source(options: dict[str, Any]) -> str:

    named = options.get("config") or find_config_file(os.environ)
    return str(named) if named else "no file, so the defaults"


def _ignored_settings(config: Config) -> Iterator[str]:
    """Say what somebody may count on that does nothing."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        if os.environ.get(name) and not config.aluma.proxy:
            yield f"{name} is set and not used for Aluma: name a proxy with proxy under [aluma]"


def _route_lines(routing: Routing) -> Iterator[str]:
    """Tell in words which files go where; nothing if all go to one place."""
    for route in routing.routes:
        wanted = {name: getattr(route, name) for name in ("project", "folder", "filename", "source")}
        fits = ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value) or "all"
        yield f"{fits} -> {', '.join(route.to)}"
    if routing.routes:
        yield f"all others -> {routing.default or 'nowhere: their tasks are not exported'}"


@contextmanager
def _step(label: str, codes: list[int]) -> Iterator[None]:
    try:
        yield
    except AlumaAsyncError as error:
        codes.append(exit_code(error))
        click.echo(f"FAIL  {label}: " + "\n      ".join(error_lines(error)))
    else:
        click.echo(f"ok    {label}")
