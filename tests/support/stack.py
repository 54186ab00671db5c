"""The real client and the simulated Aluma, connected in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.download import DownloadLimits
from aluma_async.ports import OnEvent, RequestLimiter
from aluma_async.testing import Behaviour, FaultPlan, MemoryConnector, SimulatedAluma, simulated_app

BASE_URL = "http://aluma.test/v1"


def simulated(tasks: int, profile="small", seed: int = 0, **behaviour) -> SimulatedAluma:
    """Return a simulated Aluma that uses the clock of the running loop."""
    return SimulatedAluma(tasks, seed=seed, profile=profile, behaviour=Behaviour(**behaviour), now=anyio.current_time)


@asynccontextmanager
async def app_session(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session whose requests all reach ``app``."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        assert runner.server
        async with aiohttp.ClientSession(connector=MemoryConnector(runner.server)) as session:
            yield session
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(
    aluma: SimulatedAluma,
    faults: FaultPlan | None = None,
    *,
    credentials: Credentials | None = None,
    request_limiter: RequestLimiter | None = None,
    projects=(),
    downloads: DownloadLimits = DownloadLimits(),  # noqa: B008 - frozen
    on_event: OnEvent | None = None,
) -> AsyncIterator[AlumaClient]:
    """Open the real client with a base URL that has a path."""
    async with app_session(simulated_app(aluma, faults, "/v1")) as session:
        yield AlumaClient(
            session,
            BASE_URL,
            credentials or Credentials(aluma.client_id, aluma.client_secret),
            request_limiter=request_limiter,
            projects=projects,
            downloads=downloads,
            on_event=on_event,
        )


async def list_tasks(client):
    """Return all tasks that a source lists as pending."""
    return [task async for tasks in client.list_pending() for task in tasks]


async def download(client, claim):
    """Return the bytes of the first file of a claim that has to be downloaded."""
    file = next(file for file in claim.spec.files if file.source == "url")
    async with client.open_file(claim, file) as chunks:
        return b"".join([chunk async for chunk in chunks])
