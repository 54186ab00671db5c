"""Builds the parts that tests put together: the real client and the simulated Aluma on an in-memory wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.ports import OnEvent, RequestLimiter
from aluma_async.testing import Behaviour, FaultPlan, MemoryConnector, SampleData, SimulatedAluma, simulated_app

BASE_URL = "http://aluma.test/v1"


def simulated(tasks: int, profile="small", seed: int = 0, **behaviour) -> SimulatedAluma:
    """An Aluma on the clock of the running loop."""
    return SimulatedAluma(tasks, seed=seed, profile=profile, behaviour=Behaviour(**behaviour), now=anyio.current_time)


@asynccontextmanager
async def app_session(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
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
    on_event: OnEvent | None = None,
) -> AsyncIterator[AlumaClient]:
    """The real client, below a base URL with a path."""
    async with app_session(simulated_app(aluma, faults, "/v1")) as session:
        yield AlumaClient(
            session,
            BASE_URL,
            credentials or Credentials(aluma.client_id, aluma.client_secret),
            request_limiter=request_limiter,
            projects=projects,
            on_event=on_event,
        )


def expected_texts(sample_data: SampleData, number: int) -> list[bytes]:
    return [sample_data.content(file) for document in sample_data.documents(number) for file in document]
