"""The replies of ``http_app`` that are errors, or not the ones to their requests."""

import asyncio
import base64
import hashlib
import zlib

from aiohttp import web

from aluma_async.testing.faults import LONG_PAUSE_SECONDS, WrongReply

PAGE = "<!DOCTYPE html><html><body>please log in</body></html>"
END = web.RequestKey("end", str)
"""How to end the connection after the request: "abort" or "close"."""
_END_MARK_BYTES = 6
"""Number of bytes at the end of each PDF that are the same in all versions."""


def doubly_chunked(body: bytes) -> bytes:
    """Return a body with the frame of a chunk, as from a proxy that adds it twice."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def altered(body: bytes) -> bytes:
    """Return another body of the same length, which begins and ends like it."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def digest_header(body: bytes) -> dict[str, str]:
    """Return a header with the digest of a body."""
    return {"Repr-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"}


def error_response(status: int, message: str) -> web.Response:
    """Return an error of the API."""
    return web.json_response({"message": message}, status=status)


def throttled(seconds: float) -> web.Response:
    """Return a status 429 with a delay."""
    headers = {"Retry-After": f"{seconds:.0f}"} if seconds else {}
    return web.json_response({"message": "too many requests"}, status=429, headers=headers)


def wrong_reply(reply: WrongReply) -> web.Response | None:
    """Return the reply if it does not depend on the request."""
    match reply:
        case WrongReply.NOT_FOUND:
            return error_response(404, "no route matched")
        case WrongReply.NOT_FOUND_PAGE:
            return web.Response(status=404, text="default backend - 404")
        case WrongReply.LOG_IN:
            return web.Response(status=401, text=PAGE, content_type="text/html")
        case WrongReply.FORBIDDEN:
            return error_response(403, "access denied")
        case WrongReply.NOT_ALLOWED:
            return web.Response(status=405, text=PAGE, content_type="text/html")
        case WrongReply.JSON_ERROR:
            return error_response(200, "internal error")
        case WrongReply.LOG_IN_PAGE:
            return web.Response(text=PAGE, content_type="application/pdf")
        case WrongReply.MAINTENANCE:
            return web.json_response({"state": "maintenance"})
        case WrongReply.LONG_PAUSE:
            headers = {"Retry-After": f"{LONG_PAUSE_SECONDS:.0f}"}
            return web.json_response({"message": "under maintenance"}, status=503, headers=headers)
        case WrongReply.EMPTY:
            return web.Response(content_type="application/pdf")
    return None


async def other_version(request: web.Request, body: bytes) -> web.StreamResponse:
    """Send the first half of a file; if the client resumes, send the rest of another version of the file."""
    start = request.http_range.start or 0
    response = web.StreamResponse(headers={"Content-Type": "application/pdf", "ETag": f'"{zlib.crc32(body):x}"'})
    view = memoryview(body)
    if start:
        view = memoryview(body[:-_END_MARK_BYTES].swapcase()[::-1] + body[-_END_MARK_BYTES:])[start:]
        response.set_status(206)
        response.headers["ETag"] = f'"{zlib.crc32(view):x}"'
        response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    response.content_length = len(view)
    await response.prepare(request)
    if start:
        await response.write(view)
        await response.write_eof()
        return response
    await response.write(view[: len(view) // 2])
    await asyncio.sleep(0.01)  # because aiohttp discards unread data when a connection ends
    return close_early(request, response)


def drop(request: web.Request) -> web.Response:
    """Abort the connection without a response."""
    request[END] = "abort"
    return web.Response()


async def truncated(request: web.Request, body: bytes, status: int) -> web.StreamResponse:
    """Send half of a body whose full length was announced."""
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return close_early(request, response)


def close_early(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection in the middle of a body."""
    request[END] = "close"
    return response
