"""Transformations of a stream of bytes: into large blocks, and to other line ends."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Self

BLOCK = 1024 * 1024
"""Bytes that are collected before they are written. A smaller file is written in one step."""


class iter_blocks:  # noqa: N801 - used like a generator, and cheaper than one: there is one for each small file
    """Collect chunks into blocks of at least ``BLOCK`` bytes; yield each with its size. The last may be smaller."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[list[bytes], int]:
        if self._ended:
            raise StopAsyncIteration
        block: list[bytes] = []
        size = 0
        async for chunk in self._chunks:
            block.append(chunk)
            size += len(chunk)
            if size >= BLOCK:
                return block, size
        self._ended = True
        return block, size


async def to_crlf(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    r"""Replace each ``\n`` that does not follow a ``\r`` with ``\r\n``."""
    last = b""
    async for chunk in chunks:
        text = (last + chunk).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        last, body = (b"\r", text[:-1]) if text.endswith(b"\r") else (b"", text)
        yield body
    if last:
        yield last
