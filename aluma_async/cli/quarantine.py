"""``quarantine``: the group of the commands for copies of failed and parked tasks."""

import click

from aluma_async.cli.quarantine_delete import delete
from aluma_async.cli.quarantine_export import export
from aluma_async.cli.quarantine_list import list_copies
from aluma_async.cli.quarantine_show import show


@click.group("quarantine")
def quarantine_group() -> None:
    """List, show, export or delete kept copies.

    The quarantine has a copy of each failed task and of each parked task. 'aluma-async redeliver' delivers them.
    """


for command in (list_copies, show, export, delete):
    quarantine_group.add_command(command)
