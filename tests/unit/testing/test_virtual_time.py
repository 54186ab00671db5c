"""``run_virtual`` and ``Process``: time passes at once, runs are repeatable, and a killed process does nothing more."""

import asyncio
import threading
import time

import anyio
import anyio.lowlevel
import pytest

from aluma_async.testing import run_virtual
from aluma_async.testing.virtual_loop import DeadlockError, LivelockError, Process
from tests.support.clock import virtual_time


@virtual_time
async def test_virtual_time_passes_without_waiting():
    started_at = time.monotonic()
    await anyio.sleep(3600)
    assert anyio.current_time() == 3600
    assert time.monotonic() - started_at < 60


def test_run_virtual_raises_when_all_tasks_wait():
    async def wait_for_nothing():
        await anyio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtual(wait_for_nothing)


def test_run_virtual_raises_when_no_time_passes():
    async def spin():
        while True:
            await anyio.lowlevel.checkpoint()

    with pytest.raises(LivelockError):
        run_virtual(spin)


@virtual_time
async def test_virtual_loop_runs_blocking_calls_in_its_own_thread():
    thread = await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)
    assert thread is threading.current_thread()


@virtual_time
async def test_killed_process_runs_neither_handlers_nor_timers():
    """A process that ends by itself is not killed, and runs its ``finally``."""
    ran = []

    async def main(name):
        asyncio.get_running_loop().call_later(5, ran.append, f"{name} timer")
        try:
            await anyio.sleep(3)
        finally:
            ran.append(f"{name} finally")

    killed, completed = Process(), Process()
    killed.start(main("killed"))
    completed.start(main("completed"))
    await anyio.sleep(1)
    killed.kill()
    await anyio.sleep(10)
    assert ran == ["completed finally", "completed timer"]
    assert killed.killed
    assert killed.ended.is_set()
    assert not completed.killed
    assert completed.ended.is_set()
