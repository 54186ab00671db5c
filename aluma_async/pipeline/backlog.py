"""``Backlog``: the tasks of one listing that still wait for a place in the queue, packed small."""

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from aluma_async.models import ExportTask

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, str, str, str, float | None]]).decode


class Backlog:
    """First in, first out. A packed task takes some 60 bytes, so that a million of them fit into memory."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()

    def add(self, tasks: Sequence[ExportTask]) -> None:
        """Append some tasks."""
        if tasks:
            self._blocks.append(_pack([msgspec.structs.astuple(task) for task in tasks]))

    def drain(self) -> Iterator[ExportTask]:
        """Yield the tasks and forget them."""
        while self._blocks:
            for fields in _unpack(self._blocks.popleft()):
                yield ExportTask(*fields)
