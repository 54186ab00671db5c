"""The lock of a state folder keeps a second exporter out, whatever happens to the lock file."""

import asyncio
import errno
import fcntl

import pytest

from aluma_async.exceptions import JournalLocked
from aluma_async.journal.database import LOCK_NAME
from aluma_async.journal.lock import is_locked, lock_folder
from aluma_async.journal.sqlite import SqliteJournal


@pytest.mark.parametrize("replace", [False, True])
def test_lock_holds_when_its_file_is_deleted(tmp_path, replace):
    """An administrator may take the file for a left-over one."""
    journal = SqliteJournal(tmp_path)
    asyncio.run(journal.load())
    (tmp_path / LOCK_NAME).unlink()
    if replace:
        (tmp_path / LOCK_NAME).touch()
    assert is_locked(tmp_path)
    other = SqliteJournal(tmp_path)
    with pytest.raises(JournalLocked):
        asyncio.run(other.load())
    with pytest.raises(JournalLocked), lock_folder(tmp_path):
        pass
    other.close()
    journal.close()
    assert not is_locked(tmp_path)
    with lock_folder(tmp_path):
        pass


def test_lock_is_its_file_where_folders_cannot_be_locked(tmp_path, monkeypatch):
    """As on NFS, where only a file that is open for writing can be locked."""
    files = fcntl.flock

    def flock(fd, operation):
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & 3:
            raise OSError(errno.EBADF, "not open for writing")
        files(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(JournalLocked), lock_folder(tmp_path):
            pass
    assert not is_locked(tmp_path)
