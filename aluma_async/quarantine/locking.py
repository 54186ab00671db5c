"""Locks of copies, so that ``quarantine delete`` removes no copy that an exporter needs, and only what it has shown.

The lock is one of the copy's folder. The system releases it when its process ends.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aluma_async.quarantine.files import FOLDER
from aluma_async.quarantine.folder import Copy, QuarantineFolder


class CopyLocked(OSError):
    """Another process uses a copy."""


class CopyChanged(OSError):
    """A copy was replaced, removed or marked since it was read."""


@contextmanager
def locked_copy(folder: QuarantineFolder, copy: Copy, *, shared: bool = False) -> Iterator[None]:
    """Lock a copy: ``shared`` so that it stays, otherwise in order to delete it. Blocks, but waits for no other lock.

    Raises ``CopyLocked``, ``CopyChanged`` unless the copy is still as it was read, or another ``OSError``.
    """
    with ExitStack() as stack:
        try:
            opened = os.open(copy.folder, FOLDER | os.O_NOFOLLOW)
            stack.callback(os.close, opened)
            fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # After the lock, because the copy may have been removed just before.
            is_unchanged = folder.read(copy.folder.name, copy.record_name).record == copy.record
        except BlockingIOError:
            raise CopyLocked(errno.EBUSY, "another process uses this copy") from None
        except (FileNotFoundError, ValueError):
            is_unchanged = False
        if not is_unchanged:
            raise CopyChanged(errno.ESTALE, "this copy has changed meanwhile")
        yield
