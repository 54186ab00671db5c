"""Conflicts in a folder: what happens if the name of a file is already in use."""

import os
import socket
import sqlite3
from collections import Counter

import pytest

from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder


@real_time
async def test_keep_both_keeps_the_files_of_both_tasks_under_stable_names(destination):
    """Exporting a task again replaces its own files only."""
    root, one, other = destination.root, claim_of("one", "x/a.pdf"), claim_of("other", "x/a.pdf")
    for _ in range(3):
        await deliver(destination, one, b"1")
        await deliver(destination, other, b"2")
    assert sorted(exported_files(root).values()) == [b"1", b"2"]
    await deliver(destination, one, b"changed")
    assert sorted(exported_files(root).values()) == [b"2", b"changed"]
    await deliver(destination, claim_of("third", "x/a.pdf"), b"2")
    assert sorted(exported_files(root).values()) == [b"2", b"2", b"changed"], "the same bytes, but another task"


@real_time
async def test_overwrite_replaces_the_file_of_another_task(tmp_path):
    async with open_folder(tmp_path, on_conflict="overwrite") as destination:
        await deliver(destination, claim_of("one", "a"), b"1")
        await deliver(destination, claim_of("other", "a"), b"2")
        assert exported_files(tmp_path) == {"a": b"2"}


@real_time
async def test_fail_raises_only_when_the_file_belongs_to_another_task(tmp_path):
    async with open_folder(tmp_path, on_conflict="fail") as destination:
        await deliver(destination, claim_of("one", "b"), b"1")
        await deliver(destination, claim_of("one", "b"), b"1")
        with pytest.raises(DestinationError, match="task other: file 0: another file already has this name"):
            await deliver(destination, claim_of("other", "b"), b"2")
        assert exported_files(tmp_path)["b"] == b"1"


@real_time
async def test_file_of_a_user_is_kept_unless_it_has_the_same_content(destination):
    root = destination.root
    (root / "mine.txt").write_bytes(b"a user's")
    (root / "same.txt").write_bytes(b"same")
    (root / "folder.txt").mkdir()
    await deliver(destination, claim_of("t", "mine.txt", "same.txt", "folder.txt"), b"new", b"same", b"file")
    exported = exported_files(root)
    assert exported["mine.txt"] == b"a user's"
    assert Counter(exported.values()) == Counter([b"a user's", b"new", b"same", b"file"])


@real_time
async def test_pipe_or_socket_with_the_name_is_kept_and_does_not_block(destination):
    root = destination.root
    os.mkfifo(root / "a")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "b"))
        await deliver(destination, claim_of("t", "a", "b"), b"1", b"2")
        assert sorted(exported_files(root).values()) == [b"1", b"2"]
        assert (root / "a").is_fifo()


@pytest.mark.parametrize("on_conflict", ["keep-both", "overwrite"])
@real_time
async def test_file_and_folder_of_one_name_are_both_kept(tmp_path, on_conflict):
    """In whichever order they arrive, even with ``overwrite``."""
    async with open_folder(tmp_path, on_conflict=on_conflict) as destination:
        for _ in range(2):
            await deliver(destination, claim_of("file", "x"), b"1")
            await deliver(destination, claim_of("folder", "x/a.pdf", "x/b.pdf"), b"2", b"3")
        await deliver(destination, claim_of("late", "x", "y/z"), b"4", b"5")
        await deliver(destination, claim_of("later", "y"), b"6")
        exported = exported_files(tmp_path)
        assert sorted(exported.values()) == [b"1", b"2", b"3", b"4", b"5", b"6"][on_conflict == "overwrite" :]
        folders = {name.partition("/")[0] for name in exported if name.endswith(".pdf")}
        assert len(folders) == 1, "both files are in one folder, as the specification has it"


@real_time
async def test_damaged_index_of_owners_loses_no_file(destination):
    """It is re-created, and files are compared by content meanwhile."""
    root, one, other = destination.root, claim_of("one", "a"), claim_of("other", "a")
    await deliver(destination, one, b"1")
    await deliver(destination, other, b"2")
    before = exported_files(root)
    index = root / ".aluma-async" / "owners.sqlite3"
    destination.close()
    index.write_bytes(b"not a database, " * 1000)
    await deliver(destination, one, b"1")
    await deliver(destination, other, b"2")
    assert exported_files(root) == before
    await deliver(destination, one, b"new")
    assert exported_files(root)["a"] == b"new"
    with sqlite3.connect(index) as database:
        assert database.execute("SELECT count(*) FROM owner").fetchone()[0] == 2
    database.close()


@real_time
async def test_file_that_was_overwritten_belongs_to_the_new_task_in_later_runs(tmp_path):
    """Also if ``on_conflict`` is another one then: a task never takes another task's file for its own."""
    for on_conflict, task, data in (
        ("keep-both", "one", b"1"),
        ("overwrite", "other", b"2"),
        ("keep-both", "one", b"3"),
        ("keep-both", "other", b"4"),
        ("overwrite", "third", b"5"),
        ("keep-both", "other", b"6"),
    ):
        async with open_folder(tmp_path, on_conflict=on_conflict) as destination:
            await deliver(destination, claim_of(task, "a"), data)
    exported = exported_files(tmp_path)
    assert exported.pop("a") == b"5"
    assert sorted(exported.values()) == [b"3", b"6"]
    async with open_folder(tmp_path, on_conflict="fail") as destination:
        with pytest.raises(DestinationError, match="already has this name"):
            await deliver(destination, claim_of("one", "a"), b"7")


@pytest.mark.parametrize("step", ["assign", "rename"])
@real_time
async def test_failed_delivery_reserves_no_name(destination, before_disk_step, step):
    """Another program may use the names: its file is not the task's own, and stays."""
    root = destination.root
    claim = claim_of("t", "old", "free", "sub/blocked")
    await deliver(destination, claim_of("t", "old"), b"0")
    if step == "assign":
        (root / "sub").symlink_to(root)
    else:

        def fail():
            raise OSError("broken")

        before_disk_step("os.link os.rename", 3, fail)
    with pytest.raises(DestinationError):
        await deliver(destination, claim, b"1", b"2", b"3")
    if step == "assign":
        (root / "sub").unlink()
    (root / "free").write_bytes(b"of another program")
    await deliver(destination, claim, b"1", b"2", b"3")
    exported = exported_files(root)
    assert exported.pop("free") == b"of another program"
    assert exported.pop("old") == b"1", "it was the task's own before"
    assert sorted(exported.values()) == [b"2", b"3"]
