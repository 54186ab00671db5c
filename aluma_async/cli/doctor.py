"""``doctor``: prints what a reader of an error report asks for, without secrets, and the result of ``check``.

Each part is printed as soon as it is known, and a part that fails does not prevent the others.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anyio
import click

from aluma_async.cli.check import run_check
from aluma_async.cli.config_show import secret_origin
from aluma_async.cli.doctor_paths import path_lines
from aluma_async.cli.exit_codes import INCOMPLETE, OK, error_lines, exit_code
from aluma_async.cli.options import RUN, add_options, config_file, merge_options, read_configuration
from aluma_async.cli.secret_filter import FilteredStream, SecretFilter
from aluma_async.clock import system_clock
from aluma_async.config import Config
from aluma_async.config.config import Reading
from aluma_async.config.mistakes import Mistakes
from aluma_async.config.redaction import redact_proxy
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.service.formatting import describe_defect, pluralize, sanitize

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CLOCK_SECONDS = 10
_MAX_CLOCK_SECONDS = 30


@click.command()
@add_options(*RUN)
@click.pass_obj
def doctor(outer: dict[str, Any], /, **inner: Any) -> int:
    """Print a diagnostic report, without secrets.

    Prints versions, paths, permissions, free space, proxies, the difference to Aluma's clock and the result of check.
    Names of folders, hosts and users are included. It works with an unusable configuration, too. Claims nothing; the
    exit code is that of check.
    """
    options = merge_options(outer, inner)
    file, reading, problem = _read(options)
    clean = SecretFilter(reading.raw, os.environ, file.parent if file else Path())
    stream = FilteredStream(clean, sys.stdout.write)
    with redirect_stdout(stream), redirect_stderr(stream):
        print_section("Program", _program_lines)
        print_section("Machine", _machine_lines)
        print_section("Configuration", lambda: _configuration_lines(file, reading, problem))
        print_section("Environment", lambda: _environment_lines(reading.config, os.environ))
        print_section("Paths", lambda: path_lines(reading.config, file, os.environ))
        print_section("Clock", lambda: [_clock_line(reading, problem)])
        click.echo("Check")
        code = _checked(options)
        click.echo(f"\nExit code: {code} ({'all is well' if code == OK else 'see the first FAIL'})")
        stream.close()
    return code


def print_section(title: str, lines: Callable[[], Iterable[str]]) -> None:
    """Print a part of the report; an unexpected error is a line of it."""
    click.echo(title)
    try:
        for line in lines():
            click.echo(f"  {sanitize(line, 2000)}")
    except Exception as error:  # noqa: BLE001 - the rest of the report is more important
        click.echo(f"  unexpected {sanitize(describe_defect(error))}")
    click.echo()


def _read(options: Mapping[str, Any]) -> tuple[Path | None, Reading, str]:
    """Return the file of the configuration, what could be read of it, and why nothing could."""
    file = Path(options["config"]) if options.get("config") else None
    try:
        file = config_file(options)
        return file, read_configuration(options), ""
    except AlumaAsyncError as error:
        return file, Reading(Config(), Mistakes(), {}, is_toml=False), str(error)


def _program_lines() -> Iterator[str]:
    from aluma_async.cli.version import library_lines, python_line, version_lines

    yield from version_lines()
    yield python_line()
    yield f"libraries: {', '.join(library_lines())}"


def _machine_lines() -> Iterator[str]:
    yield f"{platform.platform()}, {pluralize(os.cpu_count() or 1, 'CPU')}"
    if hasattr(os, "geteuid"):
        yield f"user {os.geteuid()}, group {os.getegid()}"
    now = time.localtime()
    yield f"local time {time.strftime('%Y-%m-%d %H:%M:%S %z', now)}, {sys.getfilesystemencoding()} names"


def _configuration_lines(file: Path | None, reading: Reading, problem: str) -> Iterator[str]:
    config = reading.config
    yield f"file: {file or 'none, defaults only'}"
    if problem:
        yield f"cannot be used: {problem}"
        return
    if count := len(reading.mistakes.found):
        yield f"{pluralize(count, 'mistake')}, see below; default values stand in place of unusable ones"
    yield f"Aluma: {config.aluma.base_url}, proxy: {redact_proxy(config.aluma.proxy) or 'none'}"
    yield f"workers: {config.exporter.workers}, processes: {config.exporter.processes}"
    yield f"destinations: {', '.join(map(_kind, config.destinations.items())) or 'none'}"
    if reading.unreadable:
        yield f"unreadable destinations: {', '.join(reading.unreadable)}"
    yield f"routes: {len(config.routes)}"


def _kind(item: tuple[str, Any]) -> str:
    name, destination = item
    return f"{name} ({getattr(destination, 'kind', None) or type(destination).__struct_config__.tag})"


def _environment_lines(config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    yield f"client secret: {secret_origin(config, environ)}"
    for name in sorted(environ):
        if name.lower() in _PROXIES:
            yield f"{name}: {redact_proxy(environ[name])}"
        elif name.startswith(("ALUMA_", "STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "AIOCACHE_")):
            yield f"{name}: set"


def _clock_line(reading: Reading, problem: str) -> str:
    if problem or not reading.is_toml or any(path[:1] == ("aluma",) for path in reading.mistakes.paths):
        return "not compared with Aluma's, because its address is not known"
    try:
        return anyio.run(_compare_clocks, reading.config)
    except AlumaAsyncError as error:
        return f"not compared with Aluma's: {error}"


async def _compare_clocks(config: Config) -> str:
    """Send a request without credentials, and compare the time of the response with this machine's."""
    import aiohttp

    from aluma_async.config.tls import ssl_context

    timeout = aiohttp.ClientTimeout(total=_CLOCK_SECONDS)
    context, proxy = ssl_context(config.aluma.ca_file, "[aluma] "), config.aluma.proxy or None
    before = system_clock().wall
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.head(config.aluma.base_url, allow_redirects=False, ssl=context, proxy=proxy) as response,
        ):
            after, date = system_clock().wall, response.headers.get("Date", "")
        server = parsedate_to_datetime(date).timestamp()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return f"not compared with Aluma's: no response ({type(error).__name__})"
    except ValueError:
        return "not compared with Aluma's: its response has no time"
    # The header has whole seconds, rounded down.
    difference = (before + after) / 2 - (server + 0.5)
    uncertainty = (after - before) / 2 + 0.5
    if abs(difference) <= uncertainty:
        return f"equal to Aluma's, within {uncertainty:.1f} s"
    direction = "ahead of" if difference > 0 else "behind"
    mark = "warn: " if abs(difference) > _MAX_CLOCK_SECONDS else ""
    return f"{mark}{abs(difference):.1f} s {direction} Aluma's, within {uncertainty:.1f} s"


def _checked(options: dict[str, Any]) -> int:
    try:
        return anyio.run(run_check, options, False)
    except AlumaAsyncError as error:
        message, *hint = error_lines(error, "check")
        click.echo("\n      ".join([f"FAIL  config: {message}", *hint]))
        return exit_code(error)
    except Exception as error:  # noqa: BLE001 - a report about a defect is the purpose of this command
        click.echo(f"FAIL  check: unexpected {sanitize(describe_defect(error))}")
        return INCOMPLETE
