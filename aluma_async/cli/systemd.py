"""``systemd``: prints a unit file for this installation."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import load_config, merge_options
from aluma_async.config import Config, FolderConfig
from aluma_async.config.destinations import SqlConfig
from aluma_async.deploy.systemd_unit import Host, render_unit


@click.command("systemd")
@click.option("--template", is_flag=True, help="Unit aluma-async@.service, for several instances.")
@click.option(
    "-c",
    "--config",
    type=click.Path(),
    metavar="FILE",
    help="Configuration file (TOML) of the service.  [default: in /etc/aluma-async]",
)
@click.pass_obj
def print_unit(outer: dict[str, Any], /, *, template: bool, **inner: Any) -> int:
    """Print a hardened systemd unit.

    The first lines of the unit explain how to install it. With a configuration file, the unit may write to the folders
    and the SQLite databases of its destinations and to its state folder.
    """
    click.echo(unit_text(merge_options(outer, inner), template=template), nl=False)
    return OK


def unit_text(options: dict[str, Any], *, template: bool = False) -> str:
    """Return the text of a unit for the config file that the options name. Raises ``ConfigError``."""
    if options.get("config"):
        options["config"] = str(Path(options["config"]).absolute())
    config = load_config(options) if options.get("config") else Config()
    folders = list(_written_folders(config))
    return render_unit(
        Host(_program(), shutil.which("kill") or "/bin/kill", _systemd_version()),
        template=template,
        config=Path(options["config"]) if options.get("config") else None,
        secret=config.aluma.client_secret_file,
        folders=folders,
        drain_seconds=config.exporter.drain_timeout_seconds,
    )


def _written_folders(config: Config) -> Iterator[Path]:
    """Yield the folders to which an exporter with this configuration writes."""
    if config.exporter.state:
        yield config.exporter.state
    for destination in config.destinations.values():
        match destination:
            case FolderConfig(path=path):
                yield path
            case SqlConfig() if file := destination.sqlite_file(os.environ):
                yield file.parent  # SQLite writes its journal beside the database


def _program() -> list[str]:
    """Return the command line that starts this installation."""
    script = Path(sys.executable).with_name("aluma-async")
    return [str(script)] if script.exists() else [sys.executable, "-m", "aluma_async"]


def _systemd_version() -> int:
    """Return the version of systemd on this machine; without systemd, a number above all versions."""
    systemctl = shutil.which("systemctl")
    if not systemctl:
        return sys.maxsize
    command = [systemctl, "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout  # noqa: S603
    version = re.match(r"systemd (\d+)", output)
    return int(version[1]) if version else sys.maxsize
