"""``Identity``: the id of a node, new for each process, and a file that names it for the next process.

A restart under the same id would renew the heartbeat of a dead node. The next process names the earlier ids in its
first report, so that their claims move to it at once: the lock of the state folder proves that those processes have
ended.
"""

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from aluma_async.private_files import open_private

FILE_NAME = "node-id"
_MAX_IDS = 16  # processes that ended before they reached the store; the claims of earlier ones are released by others
_MAX_BYTES = 4096


class Identity:
    """The id of this process, stored in ``folder``, which is locked for it. Without a folder it is not stored.

    An error of the file only means that other nodes must find out that this process has ended.
    """

    def __init__(self, folder: Path | None = None, *, host: str = "") -> None:
        self._host = host or socket.gethostname()
        self._path = folder / FILE_NAME if folder else None
        self.predecessors = self._read()
        """Ids of earlier processes, until the store has received a report of this one."""
        self.node_id = self._new_id()
        """The id of this node."""

    def store(self) -> None:
        """Store the id, once the folder is locked for this process."""
        self._write()

    def confirm(self) -> None:
        """Record that the store knows this node, so that its predecessors need not be named any more."""
        if self.predecessors:
            self.predecessors = ()
            self._write()

    def renew(self) -> str:
        """Return another id, which this node uses from now on, because its claims were taken over."""
        self.node_id, self.predecessors = self._new_id(), ()
        self._write()
        return self.node_id

    def _new_id(self) -> str:
        return f"{self._host[:64]}-{secrets.token_hex(4)}"

    def _read(self) -> tuple[str, ...]:
        if self._path is None:
            return ()
        try:
            lines = self._path.read_bytes()[:_MAX_BYTES].decode("utf-8", "replace").splitlines()
        except OSError:
            return ()
        return tuple(filter(None, map(str.strip, lines)))[:_MAX_IDS]

    def _write(self) -> None:
        if self._path is None:
            return
        new = self._path.with_name(FILE_NAME + ".new")
        with suppress(OSError):
            file = open_private(new)
            try:
                os.ftruncate(file, 0)
                os.write(file, "".join(f"{node_id}\n" for node_id in (self.node_id, *self.predecessors)).encode())
            finally:
                os.close(file)
            new.replace(self._path)
