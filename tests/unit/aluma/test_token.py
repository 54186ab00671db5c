"""Tokens of ``AlumaClient``: when they are requested, and which errors are raised."""

import anyio
import pytest

from aluma_async import Credentials
from aluma_async.aluma.token import TokenCache
from aluma_async.exceptions import AuthenticationFailed
from aluma_async.models import ExportTask
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.stack import client_of, list_tasks, simulated


@virtual_time
async def test_token_is_shared_refreshed_early_and_replaced_once_after_a_401():
    """Sixteen concurrent requests need one token request, also after their token is revoked."""
    aluma = simulated(16, token_seconds=100, latency_seconds=0.1)
    async with client_of(aluma) as client:
        tasks = [ExportTask(i) for i in aluma.ids()]

        async def send_for_all_tasks(verb):
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(verb, task)

        await send_for_all_tasks(client.start)
        assert aluma.counts["token"] == 1
        aluma.revoke_tokens()
        await send_for_all_tasks(client.cancel)
        assert aluma.counts["token"] == 2
        await anyio.sleep(85)  # refreshed before it expires, so that no request gets a 401
        await send_for_all_tasks(client.start)
        assert aluma.counts["token"] == 3


@virtual_time
async def test_token_errors_raise_authentication_failed_without_the_secret():
    """The credentials are wrong, or Aluma refuses each new token."""
    aluma = simulated(1)
    async with client_of(aluma, credentials=Credentials("x", "canary-secret")) as client:
        with pytest.raises(AuthenticationFailed) as caught:
            await list_tasks(client)
        assert "canary" not in str(caught.value) + repr(caught.value)
    faults = FaultPlan()
    faults.plan("list", [Fault.UNAUTHORISED, Fault.UNAUTHORISED])
    async with client_of(aluma, faults) as client:
        with pytest.raises(AuthenticationFailed):
            await list_tasks(client)


class Tokens:
    """A server of tokens that are valid for 100 s; a request takes ``seconds``."""

    def __init__(self):
        self.count, self.seconds = 0, 0.0

    async def fetch(self):
        self.count += 1
        number = self.count
        await anyio.sleep(self.seconds)
        return f"token {number}", 100.0


@virtual_time
async def test_token_is_refreshed_after_four_fifths_of_its_lifetime():
    tokens = Tokens()
    cache = TokenCache(tokens.fetch)
    for now, token in ((0, "token 1"), (79, "token 1"), (80, "token 2"), (159, "token 2"), (160, "token 3")):
        await anyio.sleep(now - anyio.current_time())
        assert await cache.token() == token


@virtual_time
async def test_old_token_is_used_while_one_request_refreshes_it():
    """Until it expires, counted from the moment when it was requested; then all wait for the new one."""
    tokens = Tokens()
    cache = TokenCache(tokens.fetch)
    await cache.token()
    await anyio.sleep(80)
    tokens.seconds, received = 30.0, []

    async def use():
        started_at = anyio.current_time()
        received.append((started_at, await cache.token(), anyio.current_time()))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(use)
            await anyio.sleep(5)
    assert sorted(received) == [
        (80, "token 2", 110),
        (85, "token 1", 85),
        (90, "token 1", 90),
        (95, "token 1", 95),
        (100, "token 2", 110),
    ]
    assert tokens.count == 2
    await anyio.sleep(160 - anyio.current_time())
    assert await cache.token() == "token 3", "80 s after the request for the second one"


@pytest.mark.parametrize("lifetime", [0.0001, 0.0, 4.0])
@virtual_time
async def test_token_with_a_tiny_lifetime_is_not_requested_for_each_request(lifetime):
    """If Aluma refuses it, it is discarded; otherwise the clock or the answer of a proxy was wrong."""
    fetched = []

    async def fetch():
        fetched.append(anyio.current_time())
        return f"token {len(fetched)}", lifetime

    cache = TokenCache(fetch)
    for _ in range(100):
        token = await cache.token()
        await anyio.sleep(0.1)
    assert len(fetched) <= 3
    cache.discard(token)
    assert await cache.token() != token
