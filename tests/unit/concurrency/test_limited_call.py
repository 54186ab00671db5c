"""Calls of code that may never return."""

import asyncio
from contextlib import suppress

import anyio
import pytest

from aluma_async.concurrency.limited_call import CANCEL_SECONDS, LimitedCalls
from tests.support.clock import virtual_time


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, asyncio.CancelledError, GeneratorExit])
@virtual_time
async def test_outcome_has_the_exception_of_the_call(error):
    async def fail():
        raise error

    assert type((await LimitedCalls().run(fail, 1)).error) is error


@virtual_time
async def test_outcome_has_the_result_of_the_call():
    async def call():
        await anyio.sleep(1)
        return 5

    outcome = await LimitedCalls().run(call, 2)
    assert outcome.result == 5
    assert outcome.error is None


@virtual_time
async def test_call_that_takes_too_long_is_cancelled():
    calls = LimitedCalls()
    with pytest.raises(TimeoutError):
        await calls.run(anyio.sleep_forever, 3)
    assert anyio.current_time() == 3
    assert (await calls.run(anyio.lowlevel.checkpoint, 3)).error is None


@virtual_time
async def test_call_that_ignores_its_cancellation_is_abandoned():
    """No further call is started before it has returned."""
    calls, ended = LimitedCalls(), anyio.Event()

    async def ignore():
        while not ended.is_set():
            with suppress(asyncio.CancelledError):
                await ended.wait()

    with pytest.raises(TimeoutError):
        await calls.run(ignore, 3)
    assert anyio.current_time() == 3 + CANCEL_SECONDS
    with pytest.raises(TimeoutError):
        await calls.run(anyio.lowlevel.checkpoint, 3)
    ended.set()
    await anyio.sleep(1)
    assert (await calls.run(anyio.lowlevel.checkpoint, 3)).error is None


@virtual_time
async def test_cancelled_caller_cancels_the_call():
    cancelled = []

    async def call():
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(anyio.current_time())

    with anyio.move_on_after(2):
        await LimitedCalls().run(call, 3)
    assert cancelled == [2]
