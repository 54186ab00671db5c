"""File systems that lack something: locks, shared memory, fsync of folders."""

import errno
import os
import sqlite3
import stat
from functools import partial

import pytest

from aluma_async import FolderDestination
from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.folders import claim_of, deliver, exported_files, open_folder

connect = sqlite3.connect


class Restricted(sqlite3.Connection):
    """A connection to a file system that refuses statements; temporary files are in another one."""

    refused = ()
    error = "locking protocol"

    def __init__(self, path, *arguments, **options):
        self.path = path
        super().__init__(path, *arguments, **options)

    def execute(self, statement, *arguments):
        if self.path and any(word in statement for word in self.refused):
            raise sqlite3.OperationalError(self.error)
        return super().execute(statement, *arguments)


class WithoutWal(Restricted):
    """There is no shared memory."""

    refused = ("WAL",)
    error = "disk I/O error"


class WithoutLocks(Restricted):
    refused = ("WAL", "BEGIN")


class WithSilentRefusal(Restricted):
    """The pragma keeps the earlier mode and returns it, without an error."""

    def execute(self, statement, *arguments):
        return super().execute(statement.replace("WAL", "DELETE"), *arguments)


async def deliver_conflicting(root):
    """Deliver files of two tasks with one name twice; return the destination's warning."""
    async with open_folder(root) as destination:
        for _ in range(2):
            await deliver(destination, claim_of("one", "x/a", "b"), b"1", b"same")
            await deliver(destination, claim_of("other", "x/a"), b"2")
        assert sorted(exported_files(root).values()) == [b"1", b"2", b"same"]
        await deliver(destination, claim_of("one", "x/a"), b"new")
        assert sorted(exported_files(root).values()) == [b"2", b"new", b"same"]
        return destination.warning


def journal_mode(root):
    with sqlite3.connect(root / ".aluma-async" / "owners.sqlite3") as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    database.close()
    return mode


@pytest.mark.parametrize("restriction", [WithoutWal, WithSilentRefusal])
@real_time
async def test_index_uses_a_journal_file_when_there_is_no_shared_memory(restriction, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=restriction))
    assert await deliver_conflicting(tmp_path) == ""
    monkeypatch.undo()
    assert journal_mode(tmp_path) == "delete"  # a rollback journal; whether it is truncated is not recorded
    assert await deliver_conflicting(tmp_path) == ""
    assert journal_mode(tmp_path) == "wal"


@real_time
async def test_index_ends_with_the_process_when_there_are_no_locks(tmp_path, monkeypatch):
    """Then files are compared by content, and no file is replaced."""
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=WithoutLocks))
    assert "no file locks" in await deliver_conflicting(tmp_path)
    assert not list((tmp_path / ".aluma-async").glob("owners*"))
    async with open_folder(tmp_path) as destination:
        await deliver(destination, claim_of("one", "x/a", "b"), b"new", b"changed")
    assert sorted(exported_files(tmp_path).values()) == [b"2", b"changed", b"new", b"same"]


@real_time
async def test_full_file_system_is_not_one_without_locks(tmp_path, monkeypatch):
    class Full(Restricted):
        def execute(self, statement, *arguments):
            if "INSERT" in statement:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(statement, *arguments)

    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Full))
    destination = FolderDestination(tmp_path)
    with pytest.raises(DestinationUnavailable, match="No space left"):
        await destination.probe()
    monkeypatch.undo()
    await destination.probe()
    assert not destination.warning
    destination.close()


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "EACCES"])
@real_time
async def test_fsync_of_folders_may_be_unsupported(code, tmp_path, monkeypatch):
    def fsync_files_only(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "fsync", fsync_files_only)
    async with open_folder(tmp_path / "out") as destination:
        await deliver(destination, claim_of("t", "x/a"), b"1")
    assert exported_files(tmp_path / "out") == {"x/a": b"1"}


@real_time
async def test_fsync_of_a_folder_that_fails_is_an_error(tmp_path, monkeypatch):
    async with open_folder(tmp_path) as destination:

        def fail(fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EIO, "broken disk")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(DestinationUnavailable, match="broken disk"):
            await deliver(destination, claim_of("t", "x/a"), b"1")


def modes_of(root):
    internal = root / ".aluma-async"
    files = [path for path in internal.iterdir() if path.name.startswith("owners")]
    return stat.S_IMODE(internal.stat().st_mode), {stat.S_IMODE(path.stat().st_mode) for path in files}


@real_time
async def test_only_the_user_may_read_the_index_of_owners(tmp_path):
    """It contains names of documents. An index of an earlier version could be read by others."""
    umask = os.umask(0o022)
    try:
        for _ in range(2):
            async with open_folder(tmp_path) as destination:
                await deliver(destination, claim_of("t", "x/a"), b"1")
                assert modes_of(tmp_path) == (0o700, {0o600})
            (tmp_path / ".aluma-async").chmod(0o755)
            (tmp_path / ".aluma-async" / "owners.sqlite3").chmod(0o644)
    finally:
        os.umask(umask)
