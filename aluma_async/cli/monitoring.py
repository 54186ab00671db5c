"""``monitoring``: prints a Grafana dashboard and Prometheus alert rules."""

from collections.abc import Mapping
from typing import Any

import click

from aluma_async.cli.options import add_options, load_config, merge_options
from aluma_async.deploy.monitoring import alerts, dashboard
from aluma_async.deploy.thresholds import Thresholds, thresholds_for


@click.group()
def monitoring() -> None:
    """Print Grafana and Prometheus files."""


@monitoring.command("dashboard")
@add_options("config")
@click.pass_obj
def print_dashboard(outer: Mapping[str, Any], /, **inner: Any) -> None:
    """Print a Grafana dashboard.

    The output is JSON for Grafana's import page. Thresholds follow notify_task_age_seconds of the configuration file,
    if there is one.
    """
    click.echo(dashboard(_thresholds(outer, inner)), nl=False)


@monitoring.command("alerts")
@add_options("config")
@click.pass_obj
def print_alerts(outer: Mapping[str, Any], /, **inner: Any) -> None:
    """Print Prometheus alert rules.

    The output is a YAML rule file. Thresholds follow notify_task_age_seconds of the configuration file, if there is
    one.
    """
    click.echo(alerts(_thresholds(outer, inner)), nl=False)


def _thresholds(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> Thresholds:
    config = load_config({"config": merge_options(outer, inner).get("config")})
    return thresholds_for(config.service.notify_task_age_seconds, config.exporter.poll_wait_max_seconds)
