"""``Quarantine``: what a copy contains, what it lacks, and where it is stored."""

import json
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async.events import CopyStored, QuarantineUsed
from aluma_async.exceptions import DestinationError, InvalidResponse, SourceError, Unavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.copying import CopiesDiffer
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.quarantine import CONTENT, ERROR, FAILED, PARKED, SPEC, TASK, Files, Store, claim_for, specification
from tests.support.tasks import chunks


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
    await store.export(claim_for(SPEC, task))
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
