"""``Quarantine``: its maximum size, which copies it counts, and which it removes after an export."""

import anyio
import pytest

from aluma_async.events import CopyFailed, QuarantineNearlyFull, QuarantineUsed
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim, ExportSpec, ExportTask
from aluma_async.pipeline.copying import Budget, QuarantineFull
from tests.support.clock import virtual_time
from tests.support.quarantine import CONTENT, ERROR, FAILED, PARKED, SPEC, TASK, Files, Store, claim_for, specification


@virtual_time
async def test_copy_beyond_the_limit_lacks_what_does_not_fit(tmp_path):
    store = Store(tmp_path, Files(CONTENT), max_bytes=2500)
    await store.quarantine.load()
    missing = await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    assert set(missing) == {2}
    assert "the quarantine is full" in missing[2]
    with pytest.raises(DestinationError, match="the quarantine is full"):
        await store.quarantine.store(claim_for(specification(("", "b.txt", "y" * 3000)), ExportTask("t2")), ERROR)
    assert store.folder.used_bytes() <= 2500
    (copy,) = store.copies
    assert (copy.task_id, copy.size) == ("t1", store.folder.used_bytes())


def test_quarantine_may_have_exactly_its_maximum_size():
    budget = Budget(100)
    budget.reserve(60)
    budget.reserve(40)
    with pytest.raises(QuarantineFull, match="exceed 100 bytes"):
        budget.reserve(1)
    assert budget.used == 100


@virtual_time
async def test_quarantine_reports_once_that_it_is_nearly_full(tmp_path):
    store = Store(tmp_path, Files(CONTENT), max_bytes=40_000)
    await store.quarantine.load()
    for number in range(7):
        await store.quarantine.store(claim_for(SPEC, ExportTask(f"t{number}")), ERROR, PARKED)
    assert store.count(QuarantineNearlyFull) == 1
    used = [event.used_bytes for event in store.events if isinstance(event, QuarantineUsed)]
    assert used == sorted(used)
    assert 36_000 < used[-1] <= 40_000


@virtual_time
async def test_room_that_an_administrator_made_is_used_within_a_minute(tmp_path):
    store = Store(tmp_path, Files(CONTENT), max_bytes=6500)
    await store.quarantine.load()
    for number in range(5):
        missing = await store.quarantine.store(claim_for(SPEC, ExportTask(f"t{number}")), ERROR, PARKED)
        for copy in store.copies:
            store.folder.remove(copy)
        assert not missing
        await anyio.sleep(60)


@virtual_time
async def test_copies_of_exported_tasks_are_removed(store):
    other = ExportTask("t2")
    for task in (TASK, other):
        await store.quarantine.store(claim_for(SPEC, task), ERROR, PARKED)
    assert store.quarantine.task_ids == {"t1", "t2"}
    await store.export(claim_for(SPEC))
    assert [copy.task_id for copy in store.copies] == ["t2"]
    assert store.quarantine.task_ids == {"t2"}


@pytest.mark.parametrize(
    ("state", "exported"),
    [(FAILED, SPEC), (PARKED, specification(("in", "a.csv", "new"))), (PARKED, b"")],
    ids=["of a failed task", "of another specification", "of an unknown specification"],
)
@virtual_time
async def test_copy_that_may_be_the_only_one_stays_after_an_export(state, exported, store):
    """The task is offered again with other content, or its Fail was unconfirmed."""
    await store.quarantine.store(claim_for(SPEC), ERROR, state)
    before = store.copies
    claim = claim_for(exported) if exported else Claim(TASK, ExportSpec(()), 0.0)
    store.quarantine.discard_later(claim)
    await store.quarantine.discard_exported()
    assert store.copies == before
    assert store.quarantine.task_ids == {"t1"}


@pytest.mark.parametrize("checkpoints", [0, 1, 2, 5, 10])
@virtual_time
async def test_copy_stays_if_its_task_is_parked_again_before_the_removal(checkpoints, store):
    """Whether the removal has not begun, runs, or has ended when the next copy is stored."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    await store.deliver(claim_for(SPEC))
    store.quarantine.discard_later(claim_for(SPEC))
    async with anyio.create_task_group() as group:
        group.start_soon(store.quarantine.run)
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    (copy,) = store.copies
    assert store.folder.verify(copy) == {}
    assert store.quarantine.task_ids == {"t1"}


@virtual_time
async def test_copy_that_cannot_be_removed_is_reported(store, monkeypatch):
    def fail(copy):
        raise PermissionError(13, "Permission denied")

    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    monkeypatch.setattr(store.folder, "remove", fail)
    await store.export(claim_for(SPEC))
    assert store.count(CopyFailed) == 1
    assert len(store.copies) == 1


@virtual_time
async def test_quarantine_counts_its_copies_again_and_reports_changes_only(store):
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    async with anyio.create_task_group() as group:
        group.start_soon(store.quarantine.run)
        await anyio.sleep(3600)
        (copy,) = store.copies
        store.folder.remove(copy)
        await anyio.sleep(3600)
        group.cancel_scope.cancel()
    used = [event.tasks for event in store.events if isinstance(event, QuarantineUsed)]
    assert used == [1, 0]
    assert store.quarantine.task_ids == set()


@virtual_time
async def test_load_finds_the_copies_of_earlier_processes(store):
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    later = Store(store.folder.path)
    await later.quarantine.load()
    assert later.quarantine.task_ids == {"t1"}
    (event,) = later.events
    assert event.used_bytes >= store.copies[0].size
