"""The lock of a state folder keeps a second exporter out, whatever happens to the lock file."""

import asyncio
import errno
import fcntl
import os
import threading
import time

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


@pytest.mark.parametrize("name", [LOCK_NAME, "."])
def test_lock_waits_for_a_program_that_only_looks_at_it(tmp_path, name):
    """Such as ``status``, which must not keep an exporter from starting."""
    with lock_folder(tmp_path):
        pass
    looking = os.open(tmp_path / name, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)
    timer.join()


def test_lock_of_another_exporter_is_reported_at_once(tmp_path):
    with lock_folder(tmp_path):
        started_at = time.monotonic()
        with pytest.raises(JournalLocked), lock_folder(tmp_path):
            pass
        assert time.monotonic() - started_at < 0.5
