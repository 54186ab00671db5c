"""``SqliteFleetStore``: what happens to a file that is damaged, removed, busy or of another boot."""

import sqlite3
import threading
from contextlib import closing
from types import SimpleNamespace

import anyio
import pytest

from aluma_async.clock import system_clock
from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet.ports import FleetClaim, NodeReport, NoticeKind, RecordState
from aluma_async.fleet.stores.sqlite import FILE_NAME, SqliteFleetStore
from aluma_async.models import Timestamp
from tests.support.clock import real_time

MOMENT = 5.0
"""A second, with a margin for a busy machine."""
CLAIM = FleetClaim("t", RecordState.CLAIMED, remaining=1800.0)


class Node:
    """A node with a store of its own."""

    def __init__(self, folder, name, **options):
        self.store, self.name, self.sequence = SqliteFleetStore(folder, **options), name, 0

    async def sync(self, *claims, **fields):
        self.sequence += 1
        return await self.store.sync(NodeReport(node_id=self.name, sequence=self.sequence, claims=claims, **fields))


@pytest.fixture
def fleet(tmp_path):
    """Return nodes by name, all in one folder; their stores are closed at the end."""
    nodes = [Node(tmp_path, name) for name in ("a", "b")]
    yield SimpleNamespace(a=nodes[0], b=nodes[1], path=tmp_path / FILE_NAME)
    for node in nodes:
        node.store.close()


@real_time
async def test_sqlite_store_starts_empty_after_a_reboot(tmp_path):
    """Times of another boot have no meaning, and all processes of that time have ended."""
    before = Node(tmp_path, "a", clock=lambda: Timestamp("boot 1", 5000.0, 0.0))
    after = Node(tmp_path, "b", clock=lambda: Timestamp("boot 2", 10.0, 0.0))
    first = await before.sync(CLAIM)
    before.store.close()
    second = await after.sync(FleetClaim("t", RecordState.STARTING))
    assert (second.refused, second.nodes) == ((), ())
    assert second.epoch != first.epoch
    after.store.close()


@pytest.mark.parametrize("damage", ["removed", "overwritten"])
@real_time
async def test_sqlite_store_starts_empty_when_its_file_is(damage, fleet):
    """At most one call fails, and all processes use the same new file."""
    first = await fleet.a.sync(CLAIM)
    await fleet.b.sync()
    for file in fleet.path.parent.glob(f"{FILE_NAME}*"):
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes(b"not a database" * 1000)
    updates, failures = {}, 0
    for _ in range(3):
        for name in "ab":
            try:
                updates[name] = await getattr(fleet, name).sync()
            except FleetStoreError:
                failures += 1
    assert failures <= 2
    assert updates["a"].epoch == updates["b"].epoch != first.epoch
    assert [node.node_id for node in updates["a"].nodes] == ["b"]


@real_time
async def test_sqlite_store_raises_within_a_second_when_its_file_is_busy(fleet):
    await fleet.a.sync()
    with closing(sqlite3.connect(fleet.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with anyio.fail_after(MOMENT), pytest.raises(FleetStoreError):
            await fleet.a.sync()
        other.execute("ROLLBACK")
    assert (await fleet.a.sync()).stored_sequence == 1


@real_time
async def test_sqlite_store_raises_within_a_second_when_a_step_hangs(tmp_path):
    """A file system that does not answer blocks the thread, and not its callers."""
    hang, release = threading.Event(), threading.Event()

    def clock():
        if hang.is_set():
            release.wait(60)
        return system_clock()

    node = Node(tmp_path, "a", clock=clock)
    await node.sync()
    hang.set()
    for _ in range(2):
        with anyio.fail_after(MOMENT), pytest.raises(FleetStoreError):
            await node.sync()
    release.set()
    assert (await node.sync()).stored_sequence == 2, "the first request was executed late, and the second one never"
    node.store.close()


@real_time
async def test_sqlite_store_raises_its_own_error_when_the_folder_is_gone(tmp_path):
    node = Node(tmp_path / "missing", "a")
    with pytest.raises(FleetStoreError):
        await node.sync()
    with pytest.raises(FleetStoreError):
        async with node.store.subscribe("a"):
            pass


@real_time
async def test_sqlite_store_passes_on_errors_of_its_subscriber(fleet):
    """Only its own errors of the operating system are converted."""
    with pytest.raises(OSError, match="of the caller"):
        async with fleet.a.store.subscribe("a"):
            raise OSError("of the caller")
    assert not list(fleet.path.parent.glob("fleet-node-*"))


@real_time
async def test_sqlite_store_refuses_a_second_subscription_of_a_node(fleet):
    async with fleet.a.store.subscribe("x"):
        with pytest.raises(FleetStoreError):
            async with fleet.b.store.subscribe("x"):
                pass
    async with fleet.b.store.subscribe("x"):
        pass


@real_time
async def test_sqlite_store_delivers_notices_after_its_file_was_emptied(fleet):
    """The file of notices does not grow without end."""
    async with fleet.a.store.subscribe("a") as notices:
        for number in range(1000):
            await fleet.b.store.release_holds([])
            if number % 250 == 0:
                assert (await anext(notices)).kind is NoticeKind.HOLDS
        sizes = [file.stat().st_size for file in fleet.path.parent.glob("fleet-notices")]
    assert max(sizes) < 1000


@real_time
async def test_sqlite_store_files_are_private(fleet):
    async with fleet.a.store.subscribe("a"):
        await fleet.a.store.release_holds(["t"])
        files = list(fleet.path.parent.iterdir())
        assert len(files) >= 3
        assert all(file.stat().st_mode & 0o077 == 0 for file in files)
