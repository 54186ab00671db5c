"""``locked_copy``: when a copy may be deleted, and when it stays."""

import pytest

from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.locking import CopyChanged, CopyLocked, locked_copy
from tests.support.quarantine import make_copy
from tests.unit.quarantine.test_folder import RECORD


@pytest.fixture
def folder(tmp_path):
    """A quarantine with a copy of ``t1``."""
    make_copy(tmp_path / "t1", RECORD, {"files/a.pdf": b"abc"})
    return QuarantineFolder(tmp_path)


def test_lock_excludes_another_one_unless_both_are_shared(folder):
    copy = folder.read("t1")
    for first, second in ((True, False), (False, True), (False, False)):
        with (
            locked_copy(folder, copy, shared=first),
            pytest.raises(CopyLocked),
            locked_copy(folder, copy, shared=second),
        ):
            pass
    with locked_copy(folder, copy, shared=True), locked_copy(folder, copy, shared=True):
        pass


def test_lock_requires_that_the_copy_is_as_it_was_read(folder):
    copy = folder.read("t1")
    folder.mark(copy, redelivered_at=5.0)
    with pytest.raises(CopyChanged), locked_copy(folder, copy):
        pass
    folder.remove(copy)
    with pytest.raises(CopyChanged), locked_copy(folder, copy):
        pass


def test_lock_passes_on_an_error_of_its_block(folder):
    with pytest.raises(FileNotFoundError, match="inner"), locked_copy(folder, folder.read("t1")):
        raise FileNotFoundError("inner")
