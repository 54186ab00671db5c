"""``Spool``: a ``Delivery`` that stages files on this machine, for destinations that need them whole to begin."""

import hashlib
import tempfile
from collections.abc import AsyncIterable, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import anyio.to_thread
from msgspec import Struct

from aluma_async.destinations.common.chunks import BLOCK, iter_blocks
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import ExportFile


class SpooledFile(Struct):
    """A file that is whole."""

    data: IO[bytes]
    """Where its bytes are read from; whoever reads them goes to its start first."""
    size: int
    sha256: str

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return a file with this content."""
        return cls(BytesIO(data), len(data), hashlib.sha256(data).hexdigest())

    async def read_all(self) -> bytes:
        """Return all of it, for those that are small enough."""
        self.data.seek(0)
        return self.data.read() if isinstance(self.data, BytesIO) else await anyio.to_thread.run_sync(self.data.read)


class Spool:
    """The files of one claim: small ones in memory, others in files without a name, which no crash leaves behind."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` is made when it is needed; None: where the system has its temporary files."""
        self._folder = folder
        self._files: dict[int, SpooledFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in list(self._files):
            self._discard(number)

    def __getitem__(self, file: ExportFile) -> SpooledFile:
        """Return a file that was saved. Raises ``DestinationError``."""
        try:
            return self._files[file.number]
        except KeyError:
            raise DestinationError(f"file {file.number} was never saved") from None

    def resumable_size(self, file: ExportFile) -> int | None:  # noqa: ARG002 - the port has it
        """Nothing is kept for a later attempt."""
        return None

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file; its digest is made where its bytes are written, so that they are not read again for it."""
        self._discard(file.number)
        digest, size = hashlib.sha256(), 0
        data: IO[bytes] | None = None
        try:
            async for block, length in iter_blocks(chunks):
                if data is None:
                    data = BytesIO() if length < BLOCK else await anyio.to_thread.run_sync(self._temporary)
                step = _write if size + length >= BLOCK else None
                if step:
                    await anyio.to_thread.run_sync(step, data, digest, block)
                else:
                    _write(data, digest, block)
                size += length
                del block  # many big files at once: none keeps more than it collects
            self._files[file.number] = SpooledFile(data or BytesIO(), size, digest.hexdigest())
        except OSError as error:
            hint = "Is there space left where the system has its temporary files, or in the state folder?"
            raise DestinationUnavailable(f"a file cannot be staged: {error.strerror or error}", hint=hint) from error
        finally:
            if data is not None and file.number not in self._files:
                data.close()

    def _temporary(self) -> IO[bytes]:
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def _discard(self, number: int) -> None:
        if spooled := self._files.pop(number, None):
            spooled.data.close()


def _write(data: IO[bytes], digest: "hashlib._Hash", block: Sequence[bytes]) -> None:
    for piece in block:
        digest.update(piece)
        rest = memoryview(piece)
        while rest:  # a file without a buffer may take less than it is given
            rest = rest[data.write(rest) :]
