"""Reads the files of a copy without blocking the event loop."""

from collections.abc import AsyncGenerator

from aluma_async.concurrency.threads import run_in_thread
from aluma_async.quarantine.folder import Copy, QuarantineFolder


async def read_file(folder: QuarantineFolder, copy: Copy, number: int) -> AsyncGenerator[bytes, None]:
    """Yield the content of a file of a copy in blocks. Raises ``SourceError`` unless it is as it was stored."""
    blocks = folder.read_file(copy, number)
    try:
        while block := await run_in_thread(next, blocks, b""):
            yield block
    finally:
        blocks.close()
