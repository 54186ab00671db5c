"""``Quarantine``: when a copy replaces or keeps an earlier one, and with which a task must not be failed."""

import json
from contextlib import asynccontextmanager, nullcontext

import anyio
import pytest

from aluma_async.exceptions import DestinationError
from aluma_async.pipeline.copying import CopiesDiffer
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.locking import CopyLocked, locked_copy
from tests.support.clock import virtual_time
from tests.support.quarantine import CONTENT, ERROR, FAILED, PARKED, SPEC, TASK, claim_for, specification


@virtual_time
async def test_complete_copy_is_compared_when_its_task_is_parked_again(store):
    """It stays as it is if the files are the same."""
    await store.quarantine.store(claim_for(SPEC), ERROR, PARKED)
    before, store.files.opened[:] = store.copies, []
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    assert store.files.opened == [1, 2]
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
    assert store.files.opened[0] == 1
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
    with pytest.raises(CopiesDiffer) if spec == SPEC else nullcontext():
        assert await store.quarantine.store(claim_for(spec), ERROR, state) == {}
    assert failed in store.copies
    assert len(store.copies) == 2
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
    await store.export(claim_for(SPEC))
    assert len(store.copies) == 2, "also after an export, which may have stored the wrong one"
    store.folder.remove(other)
    store.files.content["/files/2"] = CONTENT["/files/2"]
    assert await store.quarantine.store(claim_for(SPEC), ERROR, FAILED) == {}


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


@pytest.mark.parametrize("version", ["1", "2", ""])
@virtual_time
async def test_staged_file_of_an_earlier_claim_is_fetched_again(version, store):
    """Its hash is not known, so that it could not be compared with other copies."""
    old, new = b"1" * 2_000_000, b"%PDF new"
    store.files.content = {"/files/1": old, "/files/2": old}
    store.files.version = "1"
    await _cancel_at_file(store, 2, claim_for(SPEC))
    store.files.content = {"/files/1": new, "/files/2": new}
    store.files.version = version
    assert await store.quarantine.store(claim_for(SPEC), ERROR, PARKED) == {}
    (copy,) = store.copies
    assert (copy.folder / "files/in/a.pdf").read_bytes() == new
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
