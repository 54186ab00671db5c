"""An exporter that is stopped while it holds the index of owners, which several exporters use."""

import sqlite3
import time

import pytest

from aluma_async import Backoff, events
from aluma_async.destinations.folder import owners
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder, staged_files
from tests.support.world import World


@real_time
async def test_stopped_exporter_makes_the_folder_unavailable_until_it_continues(tmp_path, monkeypatch):
    """Only the first batch waits for long: the probe then pauses claiming."""
    monkeypatch.setattr(owners, "TIMEOUT_SECONDS", 1.5)
    monkeypatch.setattr(owners, "BUSY_SECONDS", 0.1)
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", "a"), b"1")
        other = sqlite3.connect(tmp_path / ".aluma-async" / "owners.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for longest in (10.0, 1.0, 1.0):
            started_at = time.monotonic()
            with pytest.raises(DestinationUnavailable, match=r"owners\.sqlite3 is locked by another program"):
                await deliver(destination, claim_of("t", "a"), b"2")
            assert time.monotonic() - started_at < longest
            with pytest.raises(DestinationUnavailable, match="is locked by another program"):
                await destination.probe()
        other.close()
        await destination.probe()
        await deliver(destination, claim_of("t", "a"), b"3")
        assert exported_files(tmp_path) == {"a": b"3"}
        assert not staged_files(tmp_path)


@real_time
async def test_transaction_waits_again_after_another_exporter_has_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "TIMEOUT_SECONDS", 0.6)
    monkeypatch.setattr(owners, "BUSY_SECONDS", 0.0)
    index = owners.Owners(tmp_path / "owners.sqlite3")
    other = sqlite3.connect(tmp_path / "owners.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DestinationUnavailable), index.transaction():
        pass
    other.execute("ROLLBACK")
    index.check()
    other.execute("BEGIN IMMEDIATE")
    started_at = time.monotonic()
    with pytest.raises(DestinationUnavailable), index.transaction():
        pass
    assert time.monotonic() - started_at > 0.5
    other.close()
    index.close()


@real_time
async def test_stopped_exporter_blames_no_task_and_delays_none_for_long(tmp_path, monkeypatch):
    """Claiming pauses with the first batch, and all tasks are exported when the other one continues."""
    monkeypatch.setattr(owners, "TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(owners, "BUSY_SECONDS", 0.1)
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("t", "a"), b"1")
        world = World(30, destination=destination, exporter={"polling": Backoff(0.1, 0.2), "cooldown": Backoff(0.1, 1)})
        other = sqlite3.connect(tmp_path / ".aluma-async" / "owners.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        def is_exported():
            if world.count(events.ClaimingPaused) and other.in_transaction:
                other.execute("ROLLBACK")
            return world.count(events.TaskCompleted) == 30

        await world.run_until(is_exported, 20)
        other.close()
        assert world.count(events.ClaimingPaused) == 1
        assert not world.count(events.TaskParked)
        assert {event.failures for event in world.events(events.TaskCancelled)} == {1}
