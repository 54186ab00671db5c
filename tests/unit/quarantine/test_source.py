"""``QuarantineSource``: the contract of a task source, and that only what was stored is delivered."""

import pytest

from aluma_async.exceptions import BadSpecification, FileMissing, SourceError
from aluma_async.models import ExportTask
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.records import CopiedFile, CopyState, QuarantineRecord
from aluma_async.quarantine.source import QuarantineSource
from aluma_async.testing import check_task_source
from tests.support.clock import virtual_time
from tests.support.quarantine import TASK, Files, Store, claim_for, make_copy, specification

SPEC = specification(("in", "a.csv", "x,y\n"), ("in", "a.pdf"), ("in", "b.pdf"))
CONTENT = {"/files/1": b"%PDF one", "/files/2": b"%PDF two" * 500}
ERROR = SourceError("why")


async def stored(path, *task_ids, content=CONTENT):
    """Return the copies of tasks with ``SPEC``, stored by a quarantine, and their folder."""
    store = Store(path, Files(content))
    for task_id in task_ids:
        await store.quarantine.store(claim_for(SPEC, ExportTask(task_id)), ERROR, CopyState.PARKED)
    return store.copies, store.folder


async def read(source, claim, number):
    (file,) = [file for file in claim.spec.files if file.number == number]
    async with source.open_file(claim, file) as blocks:
        return b"".join([block async for block in blocks])


@virtual_time
async def test_source_keeps_the_contract_of_a_task_source(tmp_path):
    copies, folder = await stored(tmp_path, "t1", "t2", "t3")
    await check_task_source(QuarantineSource(folder, copies))


@virtual_time
async def test_source_delivers_the_stored_files_and_marks_the_copy(tmp_path):
    copies, folder = await stored(tmp_path, "t1")
    source = QuarantineSource(folder, copies, now=lambda: 5.0)
    claim = await source.start(copies[0].record.task)
    assert [(file.folder, file.filename, file.source) for file in claim.spec.files] == [
        ("in", "a.csv", "content"),
        ("in", "a.pdf", "url"),
        ("in", "b.pdf", "url"),
    ]
    assert claim.spec.files[0].content == "x,y\n"
    assert [await read(source, claim, number) for number in (1, 2)] == list(CONTENT.values())
    await source.complete(claim.task)
    (copy,) = folder.copies()[0]
    assert copy.record.redelivered_at == 5.0
    assert folder.verify(copy) == {}
    assert [task async for tasks in source.list_pending() for task in tasks] == []


@pytest.mark.parametrize(
    ("content", "options", "may_replace"),
    [
        (CONTENT, {}, False),
        (CONTENT, {"replace": True}, True),
        (CONTENT, {"replace": True, "incomplete": True}, True),
        ({}, {"replace": True, "incomplete": True}, False),
    ],
    ids=["by default", "complete", "complete although it need not be", "incomplete"],
)
@virtual_time
async def test_source_lets_only_a_complete_copy_replace(tmp_path, content, options, may_replace):
    """A destination may have a newer version, or files that the copy lacks."""
    copies, folder = await stored(tmp_path, "t1", content=content)
    claim = await QuarantineSource(folder, copies, **options).start(copies[0].record.task)
    assert claim.may_replace is may_replace


@virtual_time
async def test_source_delivers_when_the_copy_cannot_be_marked(tmp_path, monkeypatch):
    copies, folder = await stored(tmp_path, "t1")

    def fail(copy, **changes):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder, "mark", fail)
    source = QuarantineSource(folder, copies)
    await source.complete((await source.start(copies[0].record.task)).task)
    assert "Read-only file system" in source.problems[0]


@virtual_time
async def test_source_refuses_an_incomplete_copy_unless_told_otherwise(tmp_path):
    copies, folder = await stored(tmp_path, "t1", content={"/files/1": b"one"})
    task = copies[0].record.task
    with pytest.raises(SourceError, match="file 2 is missing"):
        await QuarantineSource(folder, copies).start(task)
    claim = await QuarantineSource(folder, copies, incomplete=True).start(task)
    assert [file.number for file in claim.spec.files] == [0, 1]


@pytest.mark.parametrize("data", [b"%PDF 0ne", b"", b"%PDF one and more"])
@virtual_time
async def test_source_refuses_a_file_that_has_changed(data, tmp_path):
    copies, folder = await stored(tmp_path, "t1")
    source = QuarantineSource(folder, copies)
    claim = await source.start(copies[0].record.task)
    (copies[0].folder / "files/in/a.pdf").write_bytes(data)
    with pytest.raises(SourceError, match="has changed since it was stored"):
        await read(source, claim, 1)


@virtual_time
async def test_source_refuses_a_file_that_is_gone_and_one_it_does_not_have(tmp_path):
    copies, folder = await stored(tmp_path, "t1")
    source = QuarantineSource(folder, copies)
    claim = await source.start(copies[0].record.task)
    (copies[0].folder / "files/in/a.pdf").unlink()
    with pytest.raises(SourceError, match="No such file"):
        await read(source, claim, 1)
    with pytest.raises(SourceError, match="no copy"):
        await read(source, claim_for(SPEC, ExportTask("another")), 1)
    (copies[0].folder / "files/in/b.pdf").unlink()
    with pytest.raises(FileMissing):
        b"".join(folder.read_file(folder.read("t1"), 2))


@virtual_time
async def test_source_refuses_a_specification_that_has_changed(tmp_path):
    copies, folder = await stored(tmp_path, "t1")
    (copies[0].folder / "specification.json").write_bytes(SPEC.replace(b"x,y", b"x,z"))
    with pytest.raises(SourceError, match="has changed since it was stored"):
        await QuarantineSource(folder, folder.copies()[0]).start(copies[0].record.task)


@virtual_time
async def test_source_takes_nothing_from_a_record_that_the_specification_does_not_name(tmp_path):
    """A record that gives one file's bytes another file's name is not believed."""
    files = (CopiedFile(0, "in", "other.pdf", path="files/other.pdf"), CopiedFile(7, "in", "a.pdf", path="files/a.pdf"))
    record = QuarantineRecord(TASK, "Error", "why", files)
    make_copy(tmp_path / "t1", record, {"files/other.pdf": b"o", "files/a.pdf": b"a"}, specification(("in", "a.pdf")))
    folder = QuarantineFolder(tmp_path)
    with pytest.raises(SourceError, match="not in the record"):
        await QuarantineSource(folder, folder.copies()[0]).start(TASK)


@virtual_time
async def test_source_reports_an_unreadable_specification_and_releases_the_task(tmp_path):
    make_copy(tmp_path / "t1", QuarantineRecord(TASK, "BadSpecification", "why"), spec=b"<html>")
    folder = QuarantineFolder(tmp_path)
    source = QuarantineSource(folder, folder.copies()[0])
    with pytest.raises(BadSpecification):
        await source.start(TASK)
    assert [task async for tasks in source.list_pending() for task in tasks] == [TASK]


@virtual_time
async def test_source_has_a_text_that_its_name_does_not_fit(tmp_path):
    """The specification has all of it, so the copy is complete; whether it is delivered is a setting."""
    spec = specification(("", "a.pdf", "plain text"), ("", "b.txt", "second"))
    store = Store(tmp_path)
    assert await store.quarantine.store(claim_for(spec), ERROR, CopyState.PARKED) == {}
    (copy,) = store.copies
    assert copy.is_complete
    assert (copy.folder / "files/a.pdf").read_bytes() == b"plain text"
    for incomplete in (False, True):
        with pytest.raises(SourceError, match="file 0: "):
            await QuarantineSource(store.folder, [copy], incomplete=incomplete).start(TASK)
    claim = await QuarantineSource(store.folder, [copy], verify_content=False).start(TASK)
    assert [(file.content, file.problem) for file in claim.spec.files] == [("plain text", ""), ("second", "")]
