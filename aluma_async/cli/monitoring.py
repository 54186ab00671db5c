"""``monitoring``: prints a Grafana dashboard and Prometheus alert rules."""

import click

from aluma_async.deploy.monitoring import alerts, dashboard


@click.group()
def monitoring() -> None:
    """Print Grafana and Prometheus files."""


@monitoring.command("dashboard")
def print_dashboard() -> None:
    """Print a Grafana dashboard.

    The output is JSON for Grafana's import page.
    """
    click.echo(dashboard(), nl=False)


@monitoring.command("alerts")
def print_alerts() -> None:
    """Print Prometheus alert rules.

    The output is a YAML rule file.
    """
    click.echo(alerts(), nl=False)
