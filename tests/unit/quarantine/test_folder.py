"""``QuarantineFolder``: everything in it is untrusted, and copies of earlier versions stay readable."""

import json
import os
from pathlib import Path

import pytest

from aluma_async.exceptions import SourceError
from aluma_async.models import ExportTask
from aluma_async.policy.naming import owner_suffix
from aluma_async.quarantine.folder import QuarantineFolder, best_copies
from aluma_async.quarantine.records import SPEC_NUMBER, CopiedFile, CopyState, QuarantineRecord, decode_record
from tests.support.quarantine import TASK, make_copy, specification

FIXTURE = Path(__file__).parents[2] / "fixtures" / "earlier_state" / "quarantine"
RECORD = QuarantineRecord(TASK, "Error", "why", (CopiedFile(0, "", "a.pdf", path="files/a.pdf", size=3),))


def record_with(path, **fields):
    file = {"number": 0, "folder": "", "filename": "a.pdf", "missing": "", "path": path, **fields}
    return {"task": {"id": "t1"}, "error": "Error", "message": "why", "files": [file]}


def test_copy_of_an_earlier_version_is_readable():
    """Its record has no paths, so they are derived from the names. Its file 3 could never be fetched."""
    folder = QuarantineFolder(FIXTURE)
    (copy,), problems = folder.copies()
    assert problems == []
    assert (copy.task_id, copy.record.state) == ("DT17Eihksyl29g63namsOw", CopyState.FAILED)
    assert copy.missing == {3: "unknown source 'fax'"}
    assert b"".join(folder.read_file(copy, 1)) == b"%PDF-1.4 0 of 0"
    assert folder.verify(copy) == {3: "unknown source 'fax'"}


def test_paths_of_an_earlier_version_follow_its_names(tmp_path):
    """Equal and unsafe names had been changed as a destination changes them."""
    names = [("same", "a.txt"), ("SAME", "A.txt"), ("..", "../up"), ("", "con")]
    files = [{"number": n, "folder": f, "filename": name, "missing": ""} for n, (f, name) in enumerate(names)]
    stored = {"files/same/a.txt": b"0", "files/SAME/A~2.txt": b"1", "files/.._up": b"2", "files/_con": b"3"}
    make_copy(tmp_path / "t1", {"task": {"id": "t1"}, "error": "", "message": "", "files": files}, stored)
    folder = QuarantineFolder(tmp_path)
    (copy,), _ = folder.copies()
    assert [b"".join(folder.read_file(copy, number)) for number in range(4)] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "path", ["../../secret", "/etc/passwd", "files/../../../secret", "..", ".", "files//a", "a\0b", "x" * 300, "files"]
)
def test_path_in_a_record_cannot_leave_the_copy(path, tmp_path):
    (tmp_path / "secret").write_bytes(b"abc")
    make_copy(tmp_path / "q" / "t1", record_with(path), {"files/a": b"abc"})
    folder = QuarantineFolder(tmp_path / "q")
    (copy,), _ = folder.copies()
    assert set(copy.missing) == {0}
    with pytest.raises(SourceError):
        list(folder.read_file(copy, 0))


def test_links_and_other_special_files_are_not_opened(tmp_path):
    """A named pipe would block its reader for ever."""
    (tmp_path / "secret").write_bytes(b"abc")
    make_copy(tmp_path / "q" / "file", record_with("files/a.pdf"), {"files/x": b""})
    (tmp_path / "q/file/files/a.pdf").symlink_to(tmp_path / "secret")
    make_copy(tmp_path / "q" / "folder", record_with("files/secret"))
    (tmp_path / "q/folder/files").symlink_to(tmp_path)
    make_copy(tmp_path / "q" / "pipe", record_with("files/a.pdf"), {"files/x": b""})
    os.mkfifo(tmp_path / "q/pipe/files/a.pdf")
    make_copy(tmp_path / "q" / "record", record_with("files/a.pdf"))
    (tmp_path / "q/record/quarantine.json").unlink()
    os.mkfifo(tmp_path / "q/record/quarantine.json")
    make_copy(tmp_path / "elsewhere", record_with("files/a.pdf"), {"files/a.pdf": b"abc"})
    (tmp_path / "q/linked").symlink_to(tmp_path / "elsewhere")
    copies, problems = QuarantineFolder(tmp_path / "q").copies()
    assert [(copy.folder.name, set(copy.missing)) for copy in copies] == [(n, {0}) for n in ("file", "folder", "pipe")]
    assert len(problems) == 2
    assert any("linked" in problem for problem in problems)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\xff",
        b"[]",
        b"[" * 100_000,
        b'{"task": null}',
        b'{"task": {"id": ""}, "error": "", "message": ""}',
        b'{"task": {"id": 7}, "error": "", "message": ""}',
        b'{"task": {"id": "t"}, "error": "", "message": "", "state": "other"}',
        b'{"task": {"id": "t"}, "error": "", "message": "", "files": [{"number": "0"}]}',
        b'{"task": {"id": "t"}, "error": "", "message": "", "files": [{"number": -1, "folder": "", "filename": ""}]}',
        b'{"task": {"id": "t"}, "error": "", "message": "", "files": ['
        b'{"number": 0, "folder": "", "filename": "a"}, {"number": 0, "folder": "", "filename": "b"}]}',
    ],
    ids=lambda data: data[:40],
)
def test_unreadable_record_is_reported_and_hides_no_other(data, tmp_path):
    make_copy(tmp_path / "bad", data)
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    copies, (problem,) = QuarantineFolder(tmp_path).copies()
    assert [copy.task_id for copy in copies] == ["t1"]
    assert str(tmp_path / "bad") in problem


def test_times_that_are_no_times_count_as_unknown():
    data = (
        b'{"task": {"id": "t", "created_at": 1e999}, "error": "", "message": "", "stored_at": -1e999,'
        b' "redelivered_at": 1e999}'
    )
    try:
        record = decode_record(data)
    except ValueError:  # this version of msgspec refuses them
        return
    assert (record.task.created_at, record.stored_at, record.redelivered_at) == (None, 0.0, None)


def test_strict_verification_needs_hashes(tmp_path):
    """A copy of an earlier version has none: it can be delivered, but is no reason to fail its task."""
    folder = QuarantineFolder(FIXTURE)
    (copy,), _ = folder.copies()
    assert set(folder.verify(copy, strict=True)) == {SPEC_NUMBER, 0, 1, 2, 3}


def test_folder_without_a_record_is_reported(tmp_path):
    """An interrupted removal or store leaves one; it may have the only copy of a file, so it is never removed."""
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    (tmp_path / "t1/quarantine.json").unlink()
    (tmp_path / "notes.txt").write_text("of an administrator")
    folder = QuarantineFolder(tmp_path)
    copies, problems = folder.copies()
    assert (copies, len(problems)) == ([], 1)
    assert folder.fresh_name("t1") != "t1"


def test_missing_quarantine_is_empty(tmp_path):
    folder = QuarantineFolder(tmp_path / "none")
    assert folder.copies() == ([], [])
    assert folder.find("t1") == []
    assert folder.used_bytes() == 0
    assert folder.fresh_name("t1") == "t1"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda copy: (copy / "files/a.pdf").unlink(), {0}),
        (lambda copy: (copy / "files/a.pdf").write_bytes(b"ab"), {0}),
        (lambda copy: (copy / "specification.json").unlink(), {SPEC_NUMBER}),
    ],
    ids=["removed", "shortened", "no specification"],
)
def test_copy_is_incomplete_if_a_file_is_not_as_it_was_stored(change, missing, tmp_path):
    path = make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    folder = QuarantineFolder(tmp_path)
    assert folder.read("t1").is_complete
    change(path)
    assert set(folder.read("t1").missing) == missing


def test_of_several_copies_of_a_task_the_most_complete_and_newest_counts(tmp_path):
    """A crash between storing a copy and removing the earlier one leaves two."""
    for name, stored_at, complete in (("t1", 1.0, True), ("t1~2", 3.0, True), ("t1~3", 9.0, False)):
        files = ({"number": 0, "folder": "", "filename": "a.pdf", "missing": "" if complete else "404"},)
        record = {**record_with(""), "files": files, "stored_at": stored_at}
        make_copy(tmp_path / name, record, {"files/a.pdf": b"abc"})
    copies, _ = QuarantineFolder(tmp_path).copies()
    assert {task: copy.folder.name for task, copy in best_copies(copies).items()} == {"t1": "t1~2"}


def test_mark_changes_the_record_and_nothing_else(tmp_path):
    path = make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    (path / ".quarantine.json.new").symlink_to(tmp_path / "elsewhere")  # must not be followed
    folder = QuarantineFolder(tmp_path)
    marked = folder.mark(folder.read("t1"), redelivered_at=5.0)
    assert folder.read("t1").record == marked.record
    assert (marked.record.redelivered_at, marked.record.state) == (5.0, CopyState.FAILED)
    assert sorted(p.name for p in path.iterdir()) == ["files", "quarantine.json", "specification.json"]
    assert not (tmp_path / "elsewhere").exists()


def test_remove_follows_no_link(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_bytes(b"abc")
    path = make_copy(tmp_path / "q/t1", RECORD, {"files/a.pdf": b"abc"})
    (path / "link").symlink_to(tmp_path / "kept")
    folder = QuarantineFolder(tmp_path / "q")
    folder.remove(folder.read("t1"))
    assert folder.copies() == ([], [])
    assert (tmp_path / "kept/file").exists()


def test_interrupted_removal_is_not_taken_for_a_copy(tmp_path, monkeypatch):
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    folder = QuarantineFolder(tmp_path)

    def crash(*args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("shutil.rmtree", crash)
    with pytest.raises(OSError, match="Input/output"):
        folder.remove(folder.read("t1"))
    assert folder.copies()[0] == []


def test_record_is_written_with_names_that_utf_8_cannot_contain():
    from aluma_async.quarantine.records import encode_record

    record = QuarantineRecord(ExportTask("t1", "\ud800.pdf"), "Error", "\udc00", (CopiedFile(0, "\ud800", "a"),))
    assert decode_record(encode_record(record)).task.name == "?.pdf"
    assert json.loads(encode_record(record))["message"] == "?"


def test_specification_is_read_up_to_the_size_that_was_recorded(tmp_path, monkeypatch):
    """Without a recorded size, as in copies of earlier versions, up to a fixed one."""
    monkeypatch.setattr("aluma_async.quarantine.folder.MAX_RECORD_BYTES", 5000)
    spec = specification(("", "a.csv", "x" * 5000))
    folder = QuarantineFolder(tmp_path)
    for name, size in (("t1", len(spec)), ("t2", len(spec) - 1), ("t3", None)):
        record = {"task": {"id": name}, "error": "E", "message": "", "specification": {"size": size} if size else None}
        make_copy(tmp_path / name, json.dumps(record).encode(), spec=spec)
    assert folder.read_specification(folder.read("t1")) == spec
    for name in ("t2", "t3"):
        with pytest.raises(SourceError, match="larger than"):
            folder.read_specification(folder.read(name))


def make_suffixed_copy(path, task_id, content, *, spec=b"{}"):
    """Write a copy as an earlier version did into a folder with files of another owner."""
    suffix = owner_suffix(task_id)
    record = {"task": {"id": task_id}, "error": "X", "message": "", "files": [{**A_PDF, "number": 0}]}
    path.mkdir(parents=True, exist_ok=True)
    (path / f"quarantine~{suffix}.json").write_text(json.dumps(record))
    (path / f"specification~{suffix}.json").write_bytes(spec)
    (path / "files").mkdir(exist_ok=True)
    (path / "files" / f"a~{suffix}.pdf").write_bytes(content)


A_PDF = {"folder": "", "filename": "a.pdf"}


def test_copies_with_suffixed_names_are_read(tmp_path):
    """An earlier version gave them to a task whose id differs from another one only in case, or that has failed twice.

    The other copy may be of another task, so each one has its own files.
    """
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    make_suffixed_copy(tmp_path / "t1", "T1", b"other", spec=b'{"a": 1}')
    make_suffixed_copy(tmp_path / "u", "u", b"alone")
    folder = QuarantineFolder(tmp_path)
    copies, problems = folder.copies()
    assert not problems
    assert [(copy.task_id, b"".join(folder.read_file(copy, 0))) for copy in copies] == [
        ("t1", b"abc"),
        ("T1", b"other"),
        ("u", b"alone"),
    ]
    assert [copy.is_complete for copy in copies] == [True] * 3
    assert folder.read_specification(copies[1]) == b'{"a": 1}'
    assert [copy.task_id for copy in folder.find("u")] == ["u"]


def test_removal_of_a_copy_keeps_another_one_in_the_same_folder(tmp_path):
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    make_suffixed_copy(tmp_path / "t1", "T1", b"other")
    folder = QuarantineFolder(tmp_path)
    one, other = folder.copies()[0]
    folder.remove(one)
    (left,), problems = folder.copies()
    assert not problems
    assert (left.task_id, b"".join(folder.read_file(left, 0))) == ("T1", b"other")
    assert folder.mark(left, redelivered_at=5.0).record.redelivered_at == 5.0
    assert folder.copies()[0][0].record.redelivered_at == 5.0
    folder.remove(other)
    assert folder.copies() == ([], [])
    assert not (tmp_path / "t1").exists()
