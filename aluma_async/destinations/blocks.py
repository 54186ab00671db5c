"""A stream of bytes as a disk likes it: in big blocks, and with the line ends that were asked for."""

from collections.abc import AsyncIterable, AsyncIterator

BLOCK = 1024 * 1024
"""Bytes that are collected before they are written; a file of less than this is written in one step."""


async def blocks(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[list[bytes], int]]:
    """Collect chunks into blocks of at least ``BLOCK`` bytes, each with its size; the last is shorter, or empty."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            block, waiting, length, size = waiting, [], size, 0
            yield block, length
            del block
    yield waiting, size


async def crlf(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    r"""Turn each ``\n`` that has no ``\r`` before it into ``\r\n``."""
    last = b""
    async for chunk in chunks:
        text = (last + chunk).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        last, body = (b"\r", text[:-1]) if text.endswith(b"\r") else (b"", text)
        yield body
    if last:
        yield last
