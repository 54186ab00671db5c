"""``stall_requests``: lets requests about single tasks hang or be refused, or their files arrive very slowly."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

from aiohttp import web
from aiohttp.typedefs import Middleware

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

MIN_BYTES_PER_SECOND = 1000.0
"""Minimum rate of downloads of the exporters in a simulation."""
_DRIP_BYTES = 1500
_DRIP_SIZE = 10_000_000


class Stall(StrEnum):
    """How the requests about a task stall."""

    START = "start"
    """Start is neither executed nor answered."""
    DOWNLOAD = "download"
    """A download is not answered."""
    BODY = "body"
    """Nothing follows the headers of a download."""
    DRIP = "drip"
    """A download is a little faster than the minimum rate, and very large."""
    COMPLETE = "complete"
    """Complete is neither executed nor answered."""
    REFUSED = "refused"
    """Complete is answered 429 without Retry-After."""


_VERBS = {Stall.START: "start", Stall.COMPLETE: "complete", Stall.REFUSED: "complete"}


def stall_requests(stalled: Mapping[str, Stall], has_ended: Callable[[], bool]) -> Middleware:
    """Return a middleware that stalls requests about some tasks, by their ids, until ``has_ended`` returns true."""

    def stall_of(path: str) -> Stall | None:
        for task_id, stall in stalled.items():
            part = f"/{task_id}/{_VERBS[stall]}_client_action" if stall in _VERBS else f"/file_collections/{task_id}/"
            if part in path:
                return stall
        return None

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        stall = None if has_ended() else stall_of(request.path)
        if stall is None:
            return await handler(request)
        response = web.StreamResponse(headers={"Content-Type": "application/pdf", "Content-Length": str(_DRIP_SIZE)})
        if stall in (Stall.BODY, Stall.DRIP):
            await response.prepare(request)
            await response.write(b"%PDF-1.4\n")
        while stall is not Stall.REFUSED and not has_ended():
            await asyncio.sleep(1)
            if stall is Stall.DRIP:
                await response.write(b"x" * _DRIP_BYTES)
        raise web.HTTPTooManyRequests if stall is Stall.REFUSED else web.HTTPServiceUnavailable

    return middleware
