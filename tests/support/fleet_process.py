"""A store of a fleet in another process; each call travels through its pipes."""

import asyncio
import base64
import pickle
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from aluma_async.fleet.stores.sqlite import SqliteFleetStore
from tests.support.clock import ShiftedClock


class RemoteStore:
    """The ``FleetStore`` in a process; ``clock`` is the one that it uses."""

    def __init__(self, process, clock):
        self.process, self.clock = process, clock
        self._lock = anyio.Lock()

    def __getattr__(self, name):
        async def call(*arguments):
            async with self._lock:
                self.process.stdin.write(_pack((name, arguments, self.clock.ahead)))
                result = _unpack(await self.process.stdout.readline())
            if isinstance(result, Exception):
                raise result
            return result

        return call

    @asynccontextmanager
    async def subscribe(self, node_id):
        async def notices():
            while True:
                for notice in await self.pop_notices():
                    yield notice
                await anyio.sleep(0.05)

        await self.start_subscription(node_id)
        yield notices()
        await self.end_subscription()


@asynccontextmanager
async def remote_store(folder, clock):
    """Start a process that uses a folder; kill it at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        yield RemoteStore(process, clock)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _pack(value):
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _unpack(line):
    return pickle.loads(base64.b64decode(line))


async def _serve(folder):
    clock, received = ShiftedClock(), []
    store = SqliteFleetStore(Path(folder), clock=clock)

    async def subscribe(node_id, *, task_status):
        with anyio.CancelScope() as scope:
            async with store.subscribe(node_id) as notices:
                task_status.started(scope)
                async for notice in notices:
                    received.append(notice)
        ended.set()

    async with anyio.create_task_group() as group:
        while line := await anyio.to_thread.run_sync(sys.stdin.buffer.readline):
            name, arguments, clock.ahead = _unpack(line)
            result = None
            try:
                if name == "start_subscription":
                    ended, scope = anyio.Event(), await group.start(subscribe, *arguments)
                elif name == "end_subscription":
                    scope.cancel()
                    await ended.wait()
                elif name == "pop_notices":
                    result, received = received, []
                else:
                    result = await getattr(store, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - raised to the caller in the other process
                result = error
            sys.stdout.buffer.write(_pack(result))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    anyio.run(_serve, sys.argv[1])
