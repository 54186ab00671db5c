"""Reads the configuration of a command that exports, and reports all its mistakes at once."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread

from aluma_async.cli.options import config_file, read_configuration
from aluma_async.config.config import Reading
from aluma_async.ports import Destination


def read_for_export(options: Mapping[str, Any]) -> Reading:
    """Read a configuration and check its routes. Raises ``ConfigError``.

    Only if there is a mistake, its destinations are opened to find others, because each run opens them anyway.
    """
    reading = read_configuration(options)
    mistakes = reading.mistakes
    if reading.is_toml:
        # With other mistakes, the missing destination may be one of them.
        if reading.config.destinations or reading.unreadable or not mistakes.found:
            with mistakes.collect():
                reading.config.routing(reading.unreadable)
        if mistakes.found:
            anyio.run(_add_wiring_mistakes, reading, options)
    mistakes.raise_all()
    return reading


async def _add_wiring_mistakes(reading: Reading, options: Mapping[str, Any]) -> None:
    """Add the mistakes of the destinations that can be read. Sends and writes nothing."""
    from aluma_async.destinations.places import check_config_file, check_places  # slow to import
    from aluma_async.destinations.registry import open_destinations

    config, mistakes = reading.config, reading.mistakes
    async with AsyncExitStack() as stack:
        opened: dict[str, Destination] = {}
        for name, destination in config.destinations.items():
            with mistakes.collect(("destinations", name)):
                opened |= await stack.enter_async_context(open_destinations({name: destination}, config.state_folder()))
        with mistakes.collect():
            await anyio.to_thread.run_sync(check_places, config, opened)
        with mistakes.collect():
            check_config_file(config, config_file(options))
