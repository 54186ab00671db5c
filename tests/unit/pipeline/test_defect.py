"""``defect``: which exceptions of a plug-in are its errors, and which end the run."""

import asyncio
from collections import Counter

import anyio
import anyio.lowlevel
import pytest

from aluma_async.events import Event
from aluma_async.pipeline.defect import plugin_defect, report_listener_defect, run_again_if_cancelled
from tests.support.clock import virtual_time


@pytest.mark.parametrize(
    "exception", [ZeroDivisionError("x"), SystemExit(1), asyncio.CancelledError(), StopAsyncIteration()]
)
@virtual_time
async def test_exception_of_a_plug_in_is_its_defect(exception):
    """Also a ``CancelledError`` without a request, and ``SystemExit``."""
    defect = plugin_defect(exception)
    assert type(exception).__name__ in str(defect)


@virtual_time
async def test_cancellation_that_was_requested_is_no_defect():
    seen = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(1)
        except BaseException as error:
            seen.append(plugin_defect(error))
            raise
    task = asyncio.ensure_future(anyio.sleep(1))
    await anyio.lowlevel.checkpoint()

    async def cancelled():
        try:
            await anyio.sleep(10)
        except BaseException as error:
            seen.append(plugin_defect(error))
            raise

    task.cancel()
    other = asyncio.ensure_future(cancelled())
    await anyio.lowlevel.checkpoint()
    other.cancel()
    await asyncio.wait([task, other])
    assert seen == [None, None]


def test_interrupt_and_a_discarded_coroutine_are_no_defects():
    """A coroutine that is discarded after the end of the event loop may do nothing more."""
    assert plugin_defect(KeyboardInterrupt()) is None
    assert plugin_defect(GeneratorExit()) is None


@virtual_time
async def test_generator_exit_is_a_defect_while_the_event_loop_runs():
    assert plugin_defect(KeyboardInterrupt()) is None
    assert plugin_defect(GeneratorExit())


@virtual_time
async def test_first_exception_of_a_listener_is_reported_and_all_are_counted():
    contexts, counts = [], Counter()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    errors = [ValueError("one"), ValueError("two")]
    for error in errors:
        report_listener_defect(error, counts)
    assert [context["exception"] for context in contexts] == errors[:1]
    assert counts[Event] == 2


@virtual_time
async def test_step_that_a_plug_in_cancels_is_run_again():
    """Its cancellation leaves nothing behind that would disturb the next run."""
    cancelling = []

    async def step():
        task = asyncio.current_task()
        cancelling.append(task.cancelling())
        if len(cancelling) < 3:
            task.cancel()
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        group.start_soon(run_again_if_cancelled, step)
    assert cancelling == [0, 0, 0]


@virtual_time
async def test_step_that_the_exporter_cancels_is_not_run_again():
    runs = []

    async def step():
        runs.append(1)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(run_again_if_cancelled, step)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    assert runs == [1]
