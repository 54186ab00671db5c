"""``Quarantine``: a task is failed only after a copy of everything that it contains is stored."""

import json
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from aluma_async import Exporter, FolderDestination, MemoryJournal, events
from aluma_async.events import CopyStored, QuarantineUsed
from aluma_async.exceptions import DestinationError, SchemaMismatch
from aluma_async.models import Claim, ExportSpec, ExportTask
from aluma_async.quarantine.locking import CopyLocked, locked_copy
from aluma_async.quarantine.records import CopyState
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.quarantine import Store, claim_for, specification
from tests.support.stack import simulated
from tests.support.world import ImpossibleSource, World, system_time, unexportable_hold

ERROR = SchemaMismatch("row 1, column a: too long")


@virtual_time
async def test_task_is_failed_only_after_its_content_is_in_quarantine():
    world = await World(3, source=ImpossibleSource).find_unexportable()
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.failed) == (2, 1)
    bad = world.aluma.ids("failed")[0]
    assert "not valid Unicode" in world.aluma.messages[bad]
    saved = world.quarantine.tasks[bad]
    names = [name for _, name, _ in saved]
    assert {"specification.json", "quarantine.json"} < set(names)
    expected = [data for _, _, data in world.aluma.expected(bad)]
    assert Counter(expected) <= Counter(saved.values())
    world.check()


@virtual_time
async def test_quarantine_is_a_readable_folder_of_each_task(tmp_path):
    """It is created on demand and contains the files with their names, the specification, and the error."""
    folder = FolderDestination(tmp_path / "state" / "quarantine")
    aluma = simulated(1)
    journal = MemoryJournal()
    (task_id,) = aluma.ids()
    await journal.write(unexportable_hold(task_id, aluma.specification(task_id)))
    exporter = Exporter(
        ImpossibleSource(aluma), MemoryDestination(), quarantine=folder, journal=journal, clock=system_time
    )
    assert (await exporter.run_until_drained()).failed == 1
    folder.close()
    assert aluma.ids("failed") == [task_id]
    saved = tmp_path / "state" / "quarantine" / task_id
    for _, name, data in aluma.expected(task_id):
        assert (saved / "files" / name).read_bytes() == data
    record = json.loads((saved / "quarantine.json").read_text())
    assert record["task"]["id"] == task_id
    assert "not valid Unicode" in record["message"]
    assert [file["missing"] for file in record["files"]] == ["", "", ""]
    assert json.loads((saved / "specification.json").read_text())["documents"]


@virtual_time
async def test_task_is_parked_when_quarantine_is_unavailable():
    world = await World(3, source=ImpossibleSource, exporter={"park_seconds": 9999}).find_unexportable()
    world.quarantine.unavailable = True
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.failed, summary.held_back) == (2, 0, 1)
    assert world.count(events.QuarantineFailed) == 1
    assert [event.hold.seconds for event in world.events(events.TaskParked)] == [9999]
    world.check()


@virtual_time
async def test_attempt_that_fetches_nothing_new_takes_no_room(tmp_path):
    """The earlier copy stays, and the bytes of the attempt are free again."""
    store = Store(tmp_path, max_bytes=100_000)
    spec = specification(("", "a.txt", "x" * 1000), ("", "b.pdf"))
    for _ in range(3):
        missing = await store.quarantine.store(claim_for(spec), ERROR, CopyState.PARKED)
        assert set(missing) == {1}
    assert store.count(CopyStored) == 1
    await store.quarantine.store(claim_for(specification(("", "c.txt", "y")), ExportTask("t2")), ERROR)
    used = [event.used_bytes for event in store.events if isinstance(event, QuarantineUsed)]
    assert used[-1] == store.folder.used_bytes()


@virtual_time
async def test_copy_of_a_task_that_is_being_failed_is_readable_but_not_removable(tmp_path):
    store = Store(tmp_path)
    claim = claim_for(specification(("", "a.txt", "x")))
    await store.quarantine.store(claim, ERROR, CopyState.FAILED)
    (copy,) = store.copies
    with locked_copy(store.folder, copy, shared=True):
        pass
    with pytest.raises(CopyLocked), locked_copy(store.folder, copy):
        pass
    assert store.quarantine.receipt(claim) == copy.record.fingerprint
    store.quarantine.unlock(claim.task)
    with locked_copy(store.folder, copy):
        pass
    assert await store.quarantine.holds("t1", copy.record.fingerprint)
    assert await store.quarantine.has_copy("t1", copy.record.fingerprint)
    assert not await store.quarantine.holds("t1", "another")
    assert not await store.quarantine.has_copy("t1", "another")


@virtual_time
async def test_copies_that_cannot_be_searched_are_reported_and_stay(tmp_path, monkeypatch):
    store = Store(tmp_path)
    claim = claim_for(specification(("", "a.txt", "x")))
    await store.quarantine.store(claim, ERROR, CopyState.PARKED)

    def refuse(task_id):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store.folder, "find", refuse)
    store.quarantine.discard_later(claim)
    await store.quarantine.discard_exported()
    (failed,) = [event for event in store.events if isinstance(event, events.CopyFailed)]
    assert str(failed.error) == f"quarantine {tmp_path}: Input/output error"
    assert len(store.copies) == 1


@virtual_time
async def test_task_of_an_unknown_specification_is_copied_each_time(tmp_path):
    """Nothing shows that an earlier copy has the same content."""
    store = Store(tmp_path)
    claim = Claim(ExportTask("t1"), claim_for(specification(("", "a.txt", "x"))).spec, 0.0)
    unknown = Claim(claim.task, ExportSpec(claim.spec.files), 0.0)
    for _ in range(2):
        await store.quarantine.store(unknown, ERROR, CopyState.PARKED)
    assert store.count(CopyStored) == 2


class Uncommitted(FolderDestination):
    """A folder whose deliveries cannot be committed."""

    @asynccontextmanager
    async def open(self, claim):
        async with super().open(claim) as delivery:
            yield delivery
            raise DestinationError("disk full")


@virtual_time
async def test_copy_that_cannot_be_committed_takes_no_room(tmp_path):
    store = Store(tmp_path, destination=Uncommitted(tmp_path, on_conflict="overwrite"), max_bytes=3000)
    claim = claim_for(specification(("", "a.txt", "x" * 1000)))
    for _ in range(5):
        with pytest.raises(DestinationError, match="disk full"):
            await store.quarantine.store(claim, ERROR, CopyState.PARKED)


@virtual_time
async def test_quarantine_that_is_nearly_full_at_the_start_is_reported(tmp_path):
    store = Store(tmp_path)
    await store.quarantine.store(claim_for(specification(("", "a.txt", "x" * 1000))), ERROR, CopyState.PARKED)
    later = Store(tmp_path, max_bytes=store.folder.used_bytes() + 10)
    await later.quarantine.load()
    assert later.count(events.QuarantineNearlyFull) == 1
    assert later.quarantine.task_ids == {"t1"}


@virtual_time
async def test_copy_whose_specification_is_damaged_stays_after_an_export(tmp_path):
    """It may be that of another specification, and the only copy of its files."""
    store = Store(tmp_path)
    claim = claim_for(specification(("", "a.txt", "x")))
    await store.quarantine.store(claim, ERROR, CopyState.PARKED)
    (copy,) = store.copies
    (copy.folder / "specification.json").write_bytes(b"{")
    store.quarantine.discard_later(claim)
    await store.quarantine.discard_exported()
    assert [one.folder for one in store.copies] == [copy.folder]


@virtual_time
async def test_text_of_the_specification_beyond_the_limit_is_missing(tmp_path):
    """The specification is kept, which contains the text, too."""
    spec = specification(("", "a.txt", "x" * 2000), ("", "b.txt", "x"))
    store = Store(tmp_path, max_bytes=len(spec) + 1000)
    missing = await store.quarantine.store(claim_for(spec), ERROR, CopyState.FAILED)
    assert set(missing) == {0}
    assert "the quarantine is full" in missing[0]
    (copy,) = store.copies
    assert (copy.folder / "specification.json").read_bytes() == spec
    assert (copy.folder / "files/b.txt").read_bytes() == b"x"
    assert copy.record.state is CopyState.PARKED
