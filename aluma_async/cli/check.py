"""``check``: checks the configuration in three layers, one line per result, and claims nothing.

Config: the fields of the file. Wiring: whether routes, destinations and certificates fit together. Environment: whether
the state folder, the credentials, Aluma and each destination can be used.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import click

from aluma_async.cli.exit_codes import OK, error_lines, exit_code
from aluma_async.cli.list_tasks import pages
from aluma_async.cli.options import (
    RUN,
    add_options,
    config_file,
    merge_options,
    read_configuration,
    replaced_destinations,
)
from aluma_async.cli.variables import unknown_variables
from aluma_async.config import Config, Credentials
from aluma_async.config.config import Reading
from aluma_async.config.credentials import read_secret, source_id, systemd_secret
from aluma_async.config.fleet import is_unencrypted_store
from aluma_async.config.mistakes import Mistakes
from aluma_async.exceptions import AlumaAsyncError, ConfigError, JournalError
from aluma_async.journal import reader
from aluma_async.policy.routing import Routing
from aluma_async.ports import Destination
from aluma_async.service.formatting import without_subject


@click.command()
@click.option("--config-only", is_flag=True, help="Config and wiring only, without connecting or writing anything.")
@add_options(*RUN)  # so that a command line is checked by putting "check" in front of its options
@click.pass_obj
def check(outer: dict[str, Any], /, *, config_only: bool, **inner: Any) -> int:
    """Check configuration, wiring and environment.

    Prints one line per result and claims nothing. Accepts the options of a run, whose values are checked. The exit code
    is that of the first failure.
    """
    return anyio.run(run_check, merge_options(outer, inner), config_only)


async def run_check(options: dict[str, Any], config_only: bool) -> int:
    """Print a line per result, and return the exit code. Arguments as the options of ``check``."""
    codes: list[int] = []
    reading = Reading(Config(), Mistakes(), {}, is_toml=False)
    with _step(f"config: {_config_source(options)}", codes):
        reading = read_configuration(options)
        reading.mistakes.raise_all()
    if not reading.is_toml:
        return codes[0]
    config, config_only = reading.config, config_only or bool(codes)
    more = (*replaced_destinations(options), *_ignored_settings(config), *unknown_variables(os.environ))
    for warning in (*config.warnings(), *more):
        click.echo(f"warn  config: {warning}")
    await _check_wiring(reading, options, codes)
    if not config_only:
        codes += await check_environment(config)
    return codes[0] if codes else OK


async def _check_wiring(reading: Reading, options: dict[str, Any], codes: list[int]) -> None:
    from aluma_async.destinations.places import check_config_file, check_places
    from aluma_async.destinations.registry import open_destinations
    from aluma_async.wiring import open_client

    config, mistakes = reading.config, reading.mistakes
    file = config.aluma.client_secret_file
    if file and not (os.environ.get("ALUMA_CLIENT_SECRET", "").strip() or systemd_secret(os.environ)):
        with _step(f"wiring: client_secret_file {file}", codes):
            read_secret(file)
    with _step("wiring: routes", codes, mistakes):
        for line in _route_lines(config.routing(reading.unreadable)):
            click.echo(f"      {line}")
    async with AsyncExitStack() as stack:
        opened: dict[str, Destination] = {}
        for name, destination in config.destinations.items():
            with _step(f"wiring: destination {name}", codes):
                opened |= await stack.enter_async_context(open_destinations({name: destination}, config.state_folder()))
        if opened:
            with _step("wiring: each destination has a place of its own", codes, mistakes):
                await anyio.to_thread.run_sync(check_places, config, opened)
                check_config_file(config, config_file(options))
    with _step("wiring: connection to Aluma", codes):
        async with open_client(config, Credentials("", "")):  # reads the certificates, sends nothing
            pass


async def check_environment(config: Config, credentials: Credentials | None = None) -> list[int]:
    """Print a line per result; return the exit codes of the failures. Default credentials: the configured ones."""
    from aluma_async.destinations.memory_folders import memory_warnings
    from aluma_async.destinations.registry import open_destinations
    from aluma_async.wiring import check_private_folders

    codes: list[int] = []
    state = config.state_folder()
    with _step(f"environment: state folder {state}", codes):
        for warning in await anyio.to_thread.run_sync(check_private_folders, config):
            click.echo(f"warn  environment: {warning}")
        await anyio.to_thread.run_sync(_check_state_folder, state)
    for warning in await anyio.to_thread.run_sync(memory_warnings, config):
        click.echo(f"warn  environment: {warning}")
    with _step("environment: credentials", codes):
        credentials = credentials or config.credentials()
    if credentials is not None:
        with _step(f"environment: Aluma at {config.aluma.base_url}", codes):
            async with pages(config, credentials) as listing:
                async for _ in listing:
                    if not config.aluma.projects:  # each project is looked for in the whole listing
                        break
    if config.fleet.is_enabled and credentials is not None:
        await _check_fleet(config, credentials, codes)
    for name, destination in config.destinations.items():
        try:
            async with open_destinations({name: destination}, state) as opened:
                with _step(f"environment: {name}: {destination.description}", codes):
                    await opened[name].probe()
                if warning := getattr(opened[name], "warning", ""):
                    click.echo(f"warn  environment: {name}: {warning}")
        except AlumaAsyncError:  # it cannot be opened, which the wiring layer has reported
            continue
    return codes


async def _check_fleet(config: Config, credentials: Credentials, codes: list[int]) -> None:
    with _step(f"environment: store of the fleet {config.fleet.name!r}", codes):
        url = config.fleet.store_url(os.environ)
        if is_unencrypted_store(url):
            click.echo(
                "warn  environment: [fleet] url: redis:// sends ids and names of tasks unencrypted; use rediss://"
            )
        from aluma_async.fleet.check import check_store  # only with [fleet]
        from aluma_async.wiring.fleet import open_fleet_store

        async with open_fleet_store(config, source_id(config.aluma, credentials)) as store:
            for warning in await check_store(store):
                click.echo(f"warn  environment: [fleet]: {warning}")


def _check_state_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "Give this user write access, or choose another folder with --state."
        raise JournalError(f"not writable: {error.strerror}", hint=hint) from None
    reader.read_records(folder)


def _config_source(options: dict[str, Any]) -> str:
    return str(config_file(options) or "no file, defaults only")


def _ignored_settings(config: Config) -> Iterator[str]:
    """Yield a warning for each proxy variable of the environment, because the exporter does not use these."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        if os.environ.get(name) and not config.aluma.proxy:
            yield f"{name} is set, but not used for Aluma; set proxy under [aluma] to use a proxy"


def _route_lines(routing: Routing) -> Iterator[str]:
    """Describe each route; nothing if all files go to one destination."""
    for route in routing.routes:
        conditions = {name: getattr(route, name) for name in ("project", "folder", "filename", "source")}
        files = ", ".join(f"{name} {value!r}" for name, value in conditions.items() if value) or "all"
        yield f"{files} -> {', '.join(route.to)}"
    if routing.routes:
        yield f"all others -> {routing.default or 'nowhere: their tasks are not exported'}"


@contextmanager
def _step(label: str, codes: list[int], mistakes: Mistakes | None = None) -> Iterator[None]:
    """Print the result of the block, and add the exit code of its error to ``codes``; ``mistakes`` find its line."""
    try:
        yield
    except AlumaAsyncError as error:
        codes.append(exit_code(error))
        for mistake in getattr(error, "mistakes", ()) or (error,):
            located = mistakes.located(mistake) if mistakes and isinstance(mistake, ConfigError) else mistake
            message, *hint = error_lines(located, "check")
            click.echo("\n      ".join([f"FAIL  {label}: {without_subject(message, label)}", *hint]))
    else:
        click.echo(f"ok    {label}")
