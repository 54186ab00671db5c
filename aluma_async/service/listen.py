"""Serves the address of ``--listen`` as soon as it can be used, and for as long as the run lasts."""

import anyio

from aluma_async.exceptions import ConfigError
from aluma_async.service.http import serve
from aluma_async.service.logs import Log
from aluma_async.service.pages import Health, Metrics

RETRY_SECONDS = 5.0
"""Seconds between two attempts to use the address."""


async def listen(host: str, port: int, metrics: Metrics, health: Health, log: Log, *, quiet: bool) -> None:
    """Serve until cancelled; an address that cannot be used, often for a moment only, is tried again.

    ``quiet``: the address is not logged.
    """
    has_failed = False
    while True:
        try:
            async with serve(host, port, metrics, health) as url:
                if has_failed or not quiet:
                    log.write("info", "Listening", f"metrics and health at {url}", url=url)
                await anyio.sleep_forever()
        except ConfigError as error:
            if not has_failed:
                text = f"no metrics and health yet, tried again every {RETRY_SECONDS:.0f} s: {error.text}"
                log.write("warning", "ListenFailed", text, error=str(error), hint=error.hint)
            has_failed = True
        await anyio.sleep(RETRY_SECONDS)
