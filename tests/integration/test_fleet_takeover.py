"""Nodes in several processes: the claims of a killed one are taken over, those of a stopped one are not."""

import signal
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async.clock import system_clock
from aluma_async.fleet.identity import Identity
from aluma_async.fleet.link import FleetLink
from aluma_async.fleet.stores.sqlite import SqliteFleetStore
from aluma_async.fleet.takeover import FleetTakeover
from aluma_async.models import ClaimRecord, ClaimState
from tests.support.clock import real_time
from tests.support.valkey import valkey_server

PROCESS = [sys.executable, "-m", __name__]


@asynccontextmanager
async def open_store(address):
    """Open the store at a URL or in a folder."""
    if "://" in str(address):
        from aluma_async.fleet.stores.valkey import ValkeyFleetStore

        store = ValkeyFleetStore(address, "test:{fleet}")
        yield store
        await store.aclose()
    else:
        store = SqliteFleetStore(Path(address))
        yield store
        store.close()


@asynccontextmanager
async def node(address):
    """Run a node; yield its link, and the tasks whose claims it has taken over."""
    async with open_store(address) as store, run_node(store) as (link, taken):
        yield link, taken


@asynccontextmanager
async def run_node(store):
    link, taken = FleetLink(store, Identity(), claim_timeout=1800.0, clock=system_clock), []

    def add(claims):
        for claim in claims:
            taken.append(claim.record.task_id)
            link.records.put_claim(claim.record)

    takeover = FleetTakeover(link, silent_seconds=120.0, add_orphaned=add, clock=system_clock)
    async with anyio.create_task_group() as group:
        group.start_soon(link.run)
        group.start_soon(takeover.run)
        link.load([])
        yield link, taken
        group.cancel_scope.cancel()


async def run_with_claim(address, task_id):
    """Run a node that holds a claim, until the process is killed."""
    async with node(address) as (link, _):
        link.records.put_claim(ClaimRecord(task_id, ClaimState.CLAIMED, system_clock()))
        await link.wait_for_update()
        sys.stdout.write(f"{link.node_id}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


def start_process(address, task_id, stack):
    """Start a process with a claim; it is killed at the end."""
    process = stack.enter_context(
        subprocess.Popen([*PROCESS, str(address), task_id], stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.kill)
    assert process.stdout.readline().strip()
    return process


@pytest.fixture(params=["sqlite", "valkey"])
def address(request, tmp_path):
    """The address of a store of each kind."""
    if request.param == "sqlite":
        yield tmp_path
    else:
        with valkey_server() as server:
            yield server.url


@real_time
async def test_nodes_take_over_the_claims_of_a_killed_process_only(address):
    """One of several nodes, within ten seconds; a process that is stopped for a while keeps its claims."""
    with ExitStack() as stack:
        async with node(address) as (_, one), node(address) as (link, two):
            killed, stopped = (start_process(address, name, stack) for name in ("killed", "stopped"))
            await anyio.sleep(2)
            stopped.send_signal(signal.SIGSTOP)
            killed.kill()
            started_at = anyio.current_time()
            with anyio.fail_after(30):
                while not one + two:  # noqa: ASYNC110
                    await anyio.sleep(0.1)
            assert 5 <= anyio.current_time() - started_at <= 12
            await anyio.sleep(5)
            assert one + two == ["killed"]
            stopped.send_signal(signal.SIGCONT)
            await anyio.sleep(2)
            assert link.update is not None
            assert len(link.update.nodes) == 2


if __name__ == "__main__":
    anyio.run(run_with_claim, *sys.argv[1:])
