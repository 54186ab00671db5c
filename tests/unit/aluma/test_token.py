"""Tokens of ``AlumaClient``: when they are requested, and which errors are raised."""

import anyio
import pytest

from aluma_async import Credentials
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
