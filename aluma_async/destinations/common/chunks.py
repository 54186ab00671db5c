"""A stream of bytes as a disk likes it: in big blocks, and with the line ends that were asked for."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Self

BLOCK = 1024 * 1024
"""Bytes that are collected before they are written; a file of less than this is written in one step."""


class iter_blocks:  # noqa: N801 - used like the generator beside it, and cheaper: there is one for each small file
    """Collect chunks into blocks of at least ``BLOCK`` bytes, each with its size; the last is shorter, or empty."""

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
    r"""Turn each ``\n`` that has no ``\r`` before it into ``\r\n``."""
    last = b""
    async for chunk in chunks:
        text = (last + chunk).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        last, body = (b"\r", text[:-1]) if text.endswith(b"\r") else (b"", text)
        yield body
    if last:
        yield last
