"""The listing of what waits, for the commands that look at it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from aluma_async.config import Config, Credentials
from aluma_async.models import ExportTask


@asynccontextmanager
async def pages(config: Config, credentials: Credentials) -> AsyncIterator[AsyncIterator[Sequence[ExportTask]]]:
    """Open a listing. Raises ``AlumaAsyncError``, then or while it is read."""
    from aluma_async.wiring import open_client  # aiohttp takes its time, and --help does not need it

    async with open_client(config, credentials) as client, aclosing(client.list_pending()) as listing:  # type: ignore[type-var]
        yield listing
