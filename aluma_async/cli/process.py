"""``run_process``: runs one of several exporter processes, which the parent of ``supervise`` has started."""

import faulthandler
import os
from collections.abc import Callable
from typing import Any

import click

from aluma_async.cli.run import run
from aluma_async.config import Config, Credentials
from aluma_async.config.processes import config_of_process
from aluma_async.supervisor.link import ParentLink
from aluma_async.supervisor.messages import VARIABLE


async def run_process(config: Config, credentials: Credentials, *, load: Callable[[], Config], **settings: Any) -> int:
    """Export this process's part of the tasks, within its share of the limits. Arguments as for ``run``."""
    link = ParentLink.take(os.environ)
    if link is None:
        raise click.UsageError(f"{VARIABLE} is set, but this process was not started by --processes: unset it")
    faulthandler.enable(2)  # SIGABRT, by which the parent ends a stuck process, prints the traceback of every thread
    partition = link.partition
    return await run(
        config_of_process(config, partition),
        credentials,
        load=lambda: config_of_process(load(), partition),
        link=link,
        **settings,
    )
