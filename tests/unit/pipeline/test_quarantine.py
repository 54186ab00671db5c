"""``Quarantine``: what a copy contains, what it lacks, and when it replaces or keeps an earlier one."""

import json
from contextlib import asynccontextmanager, nullcontext

import anyio
import pytest

from aluma_async.events import CopyFailed, CopyStored, QuarantineNearlyFull, QuarantineUsed
from aluma_async.exceptions import DestinationError, InvalidResponse, SchemaMismatch, SourceError, Unavailable
from aluma_async.models import Claim, ExportSpec, ExportTask
from aluma_async.pipeline.copying import Budget, CopiesDiffer, QuarantineFull
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.locking import CopyLocked, locked_copy
from aluma_async.quarantine.records import CopyState
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.quarantine import TASK, Files, Store, claim_for, specification
from tests.support.tasks import chunks

PARKED, FAILED = CopyState.PARKED, CopyState.FAILED
ERROR = SchemaMismatch("row 1, column a: too long")
SPEC = specification(("in", "a.csv", "x,y\n"), ("in", "a.pdf"), ("in", "b.pdf"))
CONTENT = {"/files/1": b"%PDF one", "/files/2": b"%PDF two" * 500}


@pytest.fixture
def store(tmp_path):
    """A quarantine whose source has all files of ``SPEC``."""
    return Store(tmp_path / "quarantine", Files(CONTENT))


@virtual_time
async def test_copy_has_specification_files_error_and_state(store):
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert copy.folder.name == TASK.id
    assert (copy.folder / "specification.json").read_bytes() == SPEC
    assert (copy.folder / "files/in/a.csv").read_bytes() == b"x,y\n"
    assert (copy.folder / "files/in/b.pdf").read_bytes() == CONTENT["/files/2"]
    record = json.loads((copy.folder / "quarantine.json").read_bytes())
    assert record["task"]["created_at"] == TASK.created_at
    assert (record["state"], record["error"], record["message"]) == ("parked", "SchemaMismatch", str(ERROR))
    assert [file["path"] for file in record["files"]] == ["files/in/a.csv", "files/in/a.pdf", "files/in/b.pdf"]
    assert record["files"][2]["size"] == 4000
    assert copy.is_complete
    assert store.folder.verify(copy) == {}
    (event,) = (event for event in store.events if isinstance(event, CopyStored))
    assert (event.files, event.missing) == (3, 0)


@pytest.mark.parametrize(
    "error",
    [SourceError("403"), InvalidResponse("cut short"), Unavailable("503"), SourceError("redirected to another host")],
)
@virtual_time
async def test_file_that_was_not_fetched_is_missing_whatever_the_reason(error, store):
    """A 404, a refusal, a truncated download: the copy is kept, and its record names the missing file."""
    store.files.content["/files/2"] = error
    del store.files.content["/files/1"]
    missing = await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    assert set(missing) == {1, 2}
    assert missing[2] == str(error)
    (copy,) = store.copies
    assert set(copy.missing) == {1, 2}
    assert not (copy.folder / "files/in/b.pdf").exists()
    assert not list((store.folder.path / ".aluma-async/staging").iterdir())


@pytest.mark.parametrize(
    "row",
    [
        {"source": "fax"},
        {"source": "content", "content": None},
        {"source": "url", "url": None},
        {"source": "url", "url": ""},
        {"source": None},
    ],
    ids=str,
)
@virtual_time
async def test_file_that_can_never_be_fetched_is_missing(row, store):
    spec = json.dumps({"documents": [{"files": [{"filename": "a.pdf", **row}]}]}).encode()
    missing = await store.quarantine.store(claim_for(spec), ERROR, FAILED)
    assert set(missing) == {0}
    (copy,) = store.copies
    assert copy.record.state is PARKED, "a task that lacks a file must not be failed"
    assert (copy.folder / "specification.json").read_bytes() == spec


@virtual_time
async def test_download_that_breaks_in_the_middle_is_repeated_and_counted_once(tmp_path):
    class Breaking(Files):
        @asynccontextmanager
        async def open_file(self, claim, file):
            first = not self.opened
            async with super().open_file(claim, file) as whole:
                yield chunks(b"half", InvalidResponse("cut short")) if first else whole

    spec = specification(("", "a.pdf"))
    store = Store(tmp_path, Breaking({"/files/0": b"whole"}), max_bytes=10_000)
    assert await store.quarantine.store(claim_for(spec), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert (copy.folder / "files/a.pdf").read_bytes() == b"whole"
    used = [event.used_bytes for event in store.events if isinstance(event, QuarantineUsed)]
    assert used == [copy.size]


@virtual_time
async def test_complete_copy_of_the_same_specification_is_not_fetched_again(store):
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    before, store.files.opened[:] = store.copies, []
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    assert store.files.opened == []
    assert store.copies == before


@virtual_time
async def test_complete_copy_of_a_failed_task_stays_that_of_a_failed_one(store):
    """It serves as the copy of the parked task, but an export must not remove it: Fail may have been executed."""
    await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    store.quarantine.unlock(TASK)
    before = store.copies
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    assert store.copies == before


@virtual_time
async def test_incomplete_copy_is_refreshed_and_keeps_the_files_it_has(store):
    """The files that were fetched first are not available any more, those that were missing are."""
    del store.files.content["/files/1"]
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    store.files.content = {"/files/1": CONTENT["/files/1"]}
    store.files.opened.clear()
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    assert store.files.opened == [1]
    (copy,) = store.copies
    assert copy.is_complete
    assert (copy.folder / "files/in/b.pdf").read_bytes() == CONTENT["/files/2"]


@virtual_time
async def test_incomplete_copy_stays_as_it_is_when_nothing_more_can_be_fetched(store):
    del store.files.content["/files/1"]
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    before = store.copies
    assert set(await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)) == {1}
    assert store.copies == before


@virtual_time
async def test_copy_of_another_specification_is_stored_next_to_the_earlier_one(store):
    """Aluma may have deleted the earlier version as overdue. Both are found again when the task is parked again."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (first,) = store.copies
    store.files.content = {}
    spec = specification(("in", "c.csv", "new"), ("in", "c.pdf"))
    assert set(await store.quarantine.store(claim_for(spec), ERROR, PARKED)) == {1}
    first_again, second = store.copies
    assert first_again == first
    assert (second.folder / "files/in/c.csv").read_bytes() == b"new"
    for claim in (claim_for(SPEC), claim_for(spec)):
        await store.quarantine.store(claim, ERROR, PARKED)
        assert store.copies == [first, second]
    store.files.content = {"/files/1": b"%PDF three"}
    assert await store.quarantine.store(claim_for(spec), ERROR, PARKED) == {}
    assert [copy.is_complete for copy in store.copies] == [True, True]
    assert first in store.copies


@virtual_time
async def test_copy_of_another_specification_with_the_same_files_replaces_it(store):
    """Otherwise a specification that changes with each Start would fill the quarantine."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    assert await store.quarantine.store(claim_for(SPEC + b" "), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert store.folder.read_specification(copy) == SPEC + b" "


@pytest.mark.parametrize("state", [PARKED, FAILED])
@pytest.mark.parametrize("spec", [SPEC, SPEC + b" "], ids=["same specification", "another specification"])
@virtual_time
async def test_copy_of_a_failed_task_is_never_replaced_by_other_bytes(spec, state, store):
    """Fail has deleted the task at Aluma, which offers it again with other content."""
    await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    store.quarantine.unlock(TASK)
    (failed,) = store.copies
    store.files.content["/files/2"] = b"%PDF new version"
    with pytest.raises(CopiesDiffer) if (spec, state) == (SPEC, FAILED) else nullcontext():
        assert await store.quarantine.store(claim_for(spec), ERROR, state) == {}
    assert failed in store.copies
    assert len(store.copies) == (1 if (spec, state) == (SPEC, PARKED) else 2)
    assert store.folder.verify(failed) == {}


@virtual_time
async def test_copy_of_a_failed_task_is_replaced_by_one_with_the_same_bytes(store):
    """If Fail is not executed, the task is failed again and again, and has one copy."""
    for _ in range(3):
        await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
        store.quarantine.unlock(TASK)
        (copy,) = store.copies
        assert (copy.record.state, copy.missing) == (FAILED, {})


@virtual_time
async def test_damaged_copy_is_replaced_before_a_task_is_failed(store):
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (copy,) = store.copies
    (copy.folder / "files/in/a.pdf").write_bytes(b"%PDF 0ne")  # the same size
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}
    (copy,) = store.copies
    assert copy.record.state is FAILED
    assert (copy.folder / "files/in/a.pdf").read_bytes() == CONTENT["/files/1"]
    assert store.folder.verify(copy) == {}


@pytest.mark.parametrize("first", [PARKED, FAILED])
@virtual_time
async def test_task_must_not_be_failed_if_two_fetches_differ(first, store):
    """It is unknown which is right: one may be the answer of a proxy. Both copies stay, and no third is stored."""
    await store.quarantine.store(claim_for(SPEC), ERROR, first)
    store.quarantine.unlock(TASK)
    (earlier,) = store.copies
    for version in (b"upstream connect error", CONTENT["/files/2"], b"%PDF newest"):
        store.files.content["/files/2"] = version
        with pytest.raises(CopiesDiffer, match="file 2 was fetched twice"):
            await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
        store.quarantine.unlock(TASK)
        assert len(store.copies) == 2
    assert earlier in store.copies
    assert store.folder.verify(earlier) == {}
    (other,) = (copy for copy in store.copies if copy != earlier)
    assert other.record.state is PARKED
    store.quarantine.discard_later(claim_for(SPEC))
    await store.quarantine.discard_exported()
    assert len(store.copies) == 2, "also after an export, which may have stored the wrong one"
    store.folder.remove(other)
    store.files.content["/files/2"] = CONTENT["/files/2"]
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}


@virtual_time
async def test_disputed_copy_is_read_once_by_an_attempt(store, monkeypatch):
    """It may have gigabytes. A third attempt finds that the two copies differ, and stores nothing."""
    read = []
    is_intact = store.folder.is_intact
    monkeypatch.setattr(store.folder, "is_intact", lambda copy, number: read.append(number) or is_intact(copy, number))
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    store.files.content["/files/2"] = CONTENT["/files/2"] + b"more"
    for attempts in (1, 2):
        with pytest.raises(CopiesDiffer):
            await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
        assert read == [2] * attempts


@virtual_time
async def test_copy_is_found_only_while_it_is_whole(store):
    await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    receipt = store.quarantine.receipt(claim_for(SPEC))
    assert await store.quarantine.has_copy("t1", receipt)
    assert not await store.quarantine.has_copy("t1", "another")
    assert not await store.quarantine.has_copy("t2", receipt)
    (copy,) = store.copies
    (copy.folder / "files/in/a.pdf").write_bytes(b"%PDF")
    assert not await store.quarantine.has_copy("t1", receipt)


@virtual_time
async def test_file_of_an_earlier_copy_counts_as_missing_before_a_task_is_failed(store):
    """It cannot be fetched now, so nobody knows whether it is outdated. The earlier copy stays."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    before = store.copies
    del store.files.content["/files/1"]
    assert set(await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)) == {1}
    assert store.copies == before


@virtual_time
async def test_staged_file_of_an_earlier_claim_is_fetched_again_before_a_task_is_failed(store):
    """A copy whose download was cancelled leaves whole files, which are as outdated as those of a copy."""
    large = 2 * 1024 * 1024
    store.files.content = {"/files/1": b"1" * large, "/files/2": b"2" * large}
    store.files.version = "1"
    await _cancel_at_file(store, 2, claim_for(SPEC))
    store.files.content = {"/files/1": b"%PDF new", "/files/2": b"%PDF new"}
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}
    (copy,) = store.copies
    assert (copy.folder / "files/in/a.pdf").read_bytes() == b"%PDF new"
    assert store.folder.verify(copy, strict=True) == {}


@pytest.mark.parametrize(("version", "resumed"), [("1", True), ("2", False), ("", False)])
@virtual_time
async def test_staged_file_of_an_earlier_claim_is_used_only_in_the_same_version(version, resumed, store):
    old, new = b"1" * 2_000_000, b"%PDF new"
    store.files.content = {"/files/1": old, "/files/2": old}
    store.files.version = "1"
    await _cancel_at_file(store, 2, claim_for(SPEC))
    store.files.content = {"/files/1": new, "/files/2": new}
    store.files.version = version
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert (copy.folder / "files/in/a.pdf").read_bytes() == (old if resumed else new)
    assert store.folder.verify(copy) == {}


@virtual_time
async def test_copy_of_a_task_that_will_be_failed_is_locked(store):
    """Until the journal says that it is being failed, its copy must not be deleted."""
    await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    (copy,) = store.copies
    with pytest.raises(CopyLocked), locked_copy(store.folder, copy):
        pass
    store.quarantine.unlock(TASK)
    with locked_copy(store.folder, copy):
        pass


@virtual_time
async def test_task_must_not_be_failed_when_its_new_copy_was_deleted_at_once(store, monkeypatch):
    def delete(name):
        copy = QuarantineFolder.read(store.folder, name)
        store.folder.remove(copy)
        return copy

    monkeypatch.setattr(store.folder, "read", delete)
    with pytest.raises(DestinationError, match="copy has changed"):
        await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)


@virtual_time
async def test_receipt_is_that_of_the_copied_bytes(store):
    """A copy of the same specification with another version of a file is no proof that the task is safe."""
    await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    first = store.quarantine.receipt(claim_for(SPEC))
    assert await store.quarantine.holds("t1", first)
    store.files.content["/files/2"] = b"%PDF new version"
    with pytest.raises(CopiesDiffer):
        await store.quarantine.store(claim_for(SPEC), ERROR, FAILED)
    store.folder.remove(next(copy for copy in store.copies if copy.record.fingerprint == first))
    assert not await store.quarantine.holds("t1", first)


@virtual_time
async def test_copies_of_ids_that_differ_only_in_case_have_folders_of_their_own(store):
    """Also when both are stored at the same time: on some file systems one folder would serve both."""
    tasks = [ExportTask("AbC"), ExportTask("abc"), ExportTask("ABC")]
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(store.quarantine.store, claim_for(SPEC, task), ERROR, PARKED)
    copies = store.copies
    assert {copy.task_id for copy in copies} == {"AbC", "abc", "ABC"}
    assert len({copy.folder.name.lower() for copy in copies}) == 3
    assert all(store.folder.verify(copy) == {} for copy in copies)


@pytest.mark.parametrize("task_id", ["..", "con", ".aluma-async", "a/b", "x" * 300, "trailing."])
@virtual_time
async def test_copy_of_a_hostile_id_can_be_stored_found_and_removed(task_id, store):
    task = ExportTask(task_id)
    assert await store.quarantine.store(claim_for(SPEC, task), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert copy.folder.parent == store.folder.path
    assert store.folder.find(task_id) == [copy]
    store.quarantine.discard_later(claim_for(SPEC, task))
    await store.quarantine.discard_exported()
    assert store.copies == []


@virtual_time
async def test_copy_with_hostile_and_equal_names_is_complete(store):
    spec = specification(
        ("../..", "up.txt", "1"),
        ("", "quarantine.json", "2"),
        ("", "specification.json", "3"),
        ("same", "a.txt", "4"),
        ("SAME", "A.TXT", "5"),
        ("/etc", "passwd"),
        ("a/" * 50, "deep.txt", "6"),
    )
    store.files.content["/files/5"] = b"7"
    assert await store.quarantine.store(claim_for(spec), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert store.folder.verify(copy) == {}
    assert [b"".join(store.folder.read_file(copy, n)) for n in range(7)] == [b"1", b"2", b"3", b"4", b"5", b"7", b"6"]
    assert {path.name for path in store.folder.path.parent.iterdir()} == {"quarantine"}


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
    store.quarantine.discard_later(claim_for(SPEC))
    await store.quarantine.discard_exported()
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
    store.quarantine.discard_later(claim_for(SPEC))
    await store.quarantine.discard_exported()
    assert store.count(CopyFailed) == 1
    assert len(store.copies) == 1


@virtual_time
async def test_copies_of_an_earlier_version_are_fetched_again_before_a_task_is_failed(store):
    """They have no hashes, so nothing shows that they are whole."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (copy,) = store.copies
    record = json.loads((copy.folder / "quarantine.json").read_bytes())
    for file in record["files"]:
        file.update(sha256="", size=None)
    (copy.folder / "quarantine.json").write_text(json.dumps({**record, "specification": None}))
    (copy.folder / "files/in/b.pdf").write_bytes(b"cut short")
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}
    (copy,) = store.copies
    assert (copy.folder / "files/in/b.pdf").read_bytes() == CONTENT["/files/2"]
    assert store.folder.verify(copy, strict=True) == {}


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


@virtual_time
async def test_interrupted_copy_leaves_nothing_and_keeps_the_earlier_one(store):
    """Whenever it is interrupted: the lease ends, or the run stops."""
    del store.files.content["/files/1"]
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    store.files.content["/files/1"] = CONTENT["/files/1"]
    interrupted = 0
    for step in range(1, 200):
        with anyio.CancelScope() as scope:
            await _cancel_at(store, step, scope)
        (copy,) = store.copies
        assert store.folder.verify(copy).keys() == copy.missing.keys()
        interrupted += scope.cancelled_caught
        if copy.is_complete:
            break
    assert interrupted > 3
    assert copy.is_complete


async def _cancel_at_file(store, number, claim):
    """Store the copy of a parked task, and cancel it when everything but one file has been fetched."""
    opened = store.files.open_file
    with anyio.CancelScope() as scope:

        @asynccontextmanager
        async def open_file(claim, file):
            if file.number == number:
                await anyio.sleep(60)
                scope.cancel()
            async with opened(claim, file) as blocks:
                yield blocks

        store.files.open_file = open_file
        await store.quarantine.store(claim, ERROR, PARKED)
    store.files.open_file = opened
    assert scope.cancelled_caught


async def _cancel_at(store, step, scope):
    """Store the copy, and cancel it at its ``step``-th turn of the event loop."""
    async with anyio.create_task_group() as group:

        async def cancel():
            for _ in range(step):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        group.start_soon(cancel)
        await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
        group.cancel_scope.cancel()


@virtual_time
async def test_copy_in_a_destination_that_cannot_omit_a_file_is_not_stored(tmp_path):
    """A destination of a plug-in: it is left as it was, and the task must not be failed."""

    class WithoutOmit(MemoryDestination):
        def open(self, claim):
            @asynccontextmanager
            async def opened():
                async with MemoryDestination.open(self, claim) as delivery:

                    class Delivery:
                        save, resumable_size = delivery.save, delivery.resumable_size

                    yield Delivery()

            return opened()

    store = Store(tmp_path, Files(CONTENT), WithoutOmit())
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}
    del store.files.content["/files/1"]
    with pytest.raises(DestinationError, match="file 1 is missing"):
        await store.quarantine.store(claim_for(SPEC, ExportTask("t2")), ERROR, FAILED)
    assert list(store.destination.tasks) == ["t1"]


@pytest.mark.parametrize("content", [None, b"%PDF cut", b"?" * 4000], ids=["gone", "cut", "changed"])
@virtual_time
async def test_damaged_file_of_an_incomplete_copy_is_fetched_again(content, store):
    """With the files that the copy lacks; the next copy is whole."""
    del store.files.content["/files/1"]
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    (copy,) = store.copies
    damaged = copy.folder / "files/in/b.pdf"
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    store.files.content = CONTENT
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    assert sorted(store.files.opened[-2:]) == [1, 2]
    (copy,) = store.copies
    assert copy.is_complete
    assert store.folder.verify(copy, strict=True) == {}
    assert (copy.folder / "files/in/b.pdf").read_bytes() == CONTENT["/files/2"]
