"""``systemd`` and ``monitoring``: print what an administrator installs beside the program. Nothing is changed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import load_config, merge_options
from aluma_async.config import Config, FolderConfig
from aluma_async.deploy.monitoring import alerts, dashboard
from aluma_async.deploy.systemd_unit import Host, render_unit


@click.command("systemd")
@click.option("--template", is_flag=True, help="For several instances: aluma-async@.service.")
@click.option("-c", "--config", type=click.Path(), metavar="FILE", help="Config file.  [default: in /etc/aluma-async]")
@click.pass_obj
def print_unit(outer: dict[str, Any], /, *, template: bool, **inner: Any) -> int:
    """Print a hardened unit file for systemd.

    Folders that files go to are read from the config, if one is named.
    """
    options = merge_options(outer, inner)
    config = load_config(options) if options.get("config") else Config()
    text = render_unit(
        Host(_program(), shutil.which("kill") or "/bin/kill", _systemd_version()),
        template=template,
        config=Path(options["config"]).absolute() if options.get("config") else None,
        folders=[to.path for to in config.destinations.values() if isinstance(to, FolderConfig)],
        drain_seconds=config.exporter.drain_timeout_seconds,
    )
    click.echo(text, nl=False)
    return OK


@click.group()
def monitoring() -> None:
    """Print what watches over an exporter: a dashboard, alert rules."""


@monitoring.command("dashboard")
def print_dashboard() -> None:
    """Print a dashboard for Grafana (JSON to import)."""
    click.echo(dashboard(), nl=False)


@monitoring.command("alerts")
def print_alerts() -> None:
    """Print alert rules for Prometheus (YAML)."""
    click.echo(alerts(), nl=False)


def _program() -> list[str]:
    """Tell how this very installation is called."""
    script = Path(sys.executable).with_name("aluma-async")
    return [str(script)] if script.exists() else [sys.executable, "-m", "aluma_async"]


def _systemd_version() -> int:
    """Ask the systemd of this machine; without one, take it for a new one."""
    systemctl = shutil.which("systemctl")
    if not systemctl:
        return sys.maxsize
    said = subprocess.run([systemctl, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout  # noqa: S603
    return int(found[1]) if (found := re.match(r"systemd (\d+)", said)) else sys.maxsize
