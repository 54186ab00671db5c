"""``Spool``: a ``Delivery`` that stages files on this machine, for destinations that need complete files."""

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
    """A complete file."""

    data: IO[bytes]
    """Its content. A reader seeks to the start first."""
    size: int
    sha256: str

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return a file with this content."""
        return cls(BytesIO(data), len(data), hashlib.sha256(data).hexdigest())

    async def read_all(self) -> bytes:
        """Return the content of a small file."""
        self.data.seek(0)
        return self.data.read() if isinstance(self.data, BytesIO) else await anyio.to_thread.run_sync(self.data.read)


class Spool:
    """The files of one claim: small ones in memory, others in unnamed temporary files, which do not outlive a crash."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` is created when it is needed; None means the system's folder for temporary files."""
        self._folder = folder
        self._files: dict[int, SpooledFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in list(self._files):
            self._discard(number)

    def __getitem__(self, file: ExportFile) -> SpooledFile:
        """Return a saved file. Raises ``DestinationError``."""
        try:
            return self._files[file.number]
        except KeyError:
            raise DestinationError(f"file {file.number} was never saved") from None

    def resumable_size(self, file: ExportFile) -> int | None:  # noqa: ARG002 - defined by the port
        """Return None, because no file is kept for a later attempt."""
        return None

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file. Its hash is computed while it is written, so that it is not read again."""
        self._discard(file.number)
        digest, size = hashlib.sha256(), 0
        data: IO[bytes] | None = None
        try:
            async for block, length in iter_blocks(chunks):
                if data is None:
                    data = BytesIO() if length < BLOCK else await anyio.to_thread.run_sync(self._create_temporary)
                if size + length >= BLOCK:
                    await anyio.to_thread.run_sync(_write, data, digest, block)
                else:
                    _write(data, digest, block)
                size += length
                del block  # so that each of many large files keeps only the block that it collects
            self._files[file.number] = SpooledFile(data or BytesIO(), size, digest.hexdigest())
        except OSError as error:
            raise DestinationUnavailable(
                f"file {file.number} cannot be staged: {error.strerror or error}",
                hint="Check that the state folder, or the system's folder for temporary files, has free space.",
                for_all=True,  # no probe uses that folder
            ) from error
        finally:
            if data is not None and file.number not in self._files:
                data.close()

    def _create_temporary(self) -> IO[bytes]:
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def _discard(self, number: int) -> None:
        if spooled := self._files.pop(number, None):
            spooled.data.close()


def _write(data: IO[bytes], digest: "hashlib._Hash", block: Sequence[bytes]) -> None:
    for chunk in block:
        digest.update(chunk)
        rest = memoryview(chunk)
        while rest:  # an unbuffered file may write only a part
            rest = rest[data.write(rest) :]
