"""The simulated Aluma over HTTP: ``simulated_app``, an aiohttp application, and ``serve``, which runs it."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec
from aiohttp import web

from aluma_async.testing.faults import AnyFault, Fault, FaultPlan, WrongReply
from aluma_async.testing.simulator import NotFound, SimulatedAluma, StateConflict

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FaultyHandler = Callable[[web.Request, AnyFault | None], Awaitable[web.StreamResponse]]

_CHUNK = 256 * 1024
_END_MARK_BYTES = 6
"""Number of bytes at the end of each PDF that are the same in all versions."""
_PAGE = "<!DOCTYPE html><html><body>please log in</body></html>"
_SURPLUS_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nContent-Length: 19\r\n\r\n%PDF-1.4 of no task"
_END = web.RequestKey("end", str)  # how to end the connection after the request: "abort" or "close"


def simulated_app(aluma: SimulatedAluma, faults: FaultPlan | None = None, prefix: str = "") -> web.Application:
    """Return an application with the API and ``GET /simulated`` (its state as JSON), both below ``prefix``."""
    handlers = _Handlers(aluma, faults or FaultPlan())
    app = web.Application()
    app.add_routes(
        [
            web.post(f"{prefix}/oauth/token", handlers.wrap("token", handlers.token)),
            web.get(f"{prefix}/tasks", handlers.wrap("list", handlers.list_pending)),
            web.get(prefix + "/tasks/{id}", handlers.wrap("get", handlers.get)),
            *(
                web.put(
                    prefix + f"/tasks/{{id}}/{verb}_client_action", handlers.wrap(verb, handlers.state_change(verb))
                )
                for verb in ("start", "complete", "cancel", "fail")
            ),
            web.get(prefix + "/file_collections/{collection}/files/{file}", handlers.wrap("file", handlers.file)),
            web.get(f"{prefix}/simulated", handlers.observe),
        ]
    )
    return app


@asynccontextmanager
async def serve(
    aluma: SimulatedAluma, faults: FaultPlan | None = None, *, host: str = "127.0.0.1", port: int = 0, prefix: str = ""
) -> AsyncIterator[str]:
    """Serve the simulated Aluma on a port (0: any free port); yields the base URL."""
    runner = web.AppRunner(
        simulated_app(aluma, faults, prefix), access_log=None, shutdown_timeout=1, handler_cancellation=True
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{host}:{runner.addresses[0][1]}{prefix}"
    finally:
        await runner.cleanup()


class _Handlers:
    """The handlers of the API's routes."""

    def __init__(self, aluma: SimulatedAluma, faults: FaultPlan) -> None:
        self._aluma = aluma
        self._faults = faults

    def wrap(self, verb: str, handler: FaultyHandler) -> Handler:
        """Return a handler that counts, delays and authorizes a request, and applies its fault."""

        async def handle(request: web.Request) -> web.StreamResponse:
            aluma, behaviour = self._aluma, self._aluma.behaviour
            try:
                if not aluma.request_started():
                    return _throttled(behaviour.retry_after_seconds)
                if behaviour.latency_seconds:
                    await asyncio.sleep(behaviour.latency_seconds)
                fault = self._faults.next(verb)
                match fault:
                    case Fault.DROP_BEFORE:
                        return _drop(request)
                    case Fault.ERROR_BEFORE:
                        return web.Response(status=503, text="<html>try again</html>", content_type="text/html")
                    case Fault.THROTTLE:
                        return _throttled(1)
                    case Fault.HTML:
                        return web.Response(text="<html>please log in</html>", content_type="text/html")
                    case WrongReply() if reply := _wrong_reply(fault):
                        return reply
                    case Fault.HANG:
                        await asyncio.sleep(3600)
                    case Fault.LATE:
                        self._execute_late(request, verb)
                        await asyncio.sleep(3600)
                    case Fault.SLOW:
                        await asyncio.sleep(self._faults.seconds(Fault.SLOW))
                    case Fault.UNAUTHORISED:
                        aluma.revoke_tokens()
                if verb != "token" and not aluma.accepts(
                    request.headers.get("Authorization", "").removeprefix("Bearer ")
                ):
                    return _error_response(401, "missing or expired token")
                try:
                    response = await handler(request, fault)
                except StateConflict as conflict:
                    return _error_response(behaviour.conflict_status, f"the task is in state {conflict}")
                except NotFound:
                    return _error_response(404, "not found")
                if fault is Fault.DROP_AFTER:
                    return _drop(request)
                if fault is Fault.ERROR_AFTER:
                    return web.Response(status=502, text="Bad gateway")
                if fault is WrongReply.BLOCKED:
                    return web.Response(status=403, text=_PAGE, content_type="text/html")
                if fault is WrongReply.OTHER_SUCCESS and not response.prepared:
                    response.set_status(201)
                if not response.prepared and _END not in request:
                    # Sent here, because the request is in flight until its response has left.
                    await response.prepare(request)
                    await response.write_eof()
                if fault is WrongReply.SURPLUS and request.transport and _END not in request:
                    transport = request.transport
                    getattr(transport, "write_when_idle", transport.write)(_SURPLUS_RESPONSE)
                return response
            finally:
                aluma.request_finished()  # before the client sees the connection end and sends its next request
                if request.transport and (end := request.get(_END)):
                    getattr(request.transport, end)()

        return handle

    def _execute_late(self, request: web.Request, verb: str) -> None:
        change = {"start": self._aluma.start, "complete": self._aluma.complete, "cancel": self._aluma.cancel}.get(verb)

        def execute() -> None:
            with suppress(StateConflict, NotFound):
                change(request.match_info["id"])  # type: ignore[misc]

        if change:
            asyncio.get_running_loop().call_later(self._faults.seconds(Fault.LATE), execute)

    async def token(self, request: web.Request, _: AnyFault | None) -> web.StreamResponse:
        try:
            sent = msgspec.json.decode(await request.read(), type=dict[str, str])
        except msgspec.DecodeError:
            return _error_response(400, "not JSON")
        token = self._aluma.issue_token(sent.get("client_id", ""), sent.get("client_secret", ""))
        if token is None:
            return _error_response(401, "invalid client")
        return web.json_response({"access_token": token, "expires_in": int(self._aluma.behaviour.token_seconds)})

    async def list_pending(self, request: web.Request, fault: AnyFault | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        chunk = bytearray(b'{"tasks":[')
        for number, row in enumerate(self._aluma.list_in_state(request.query.get("state", ""))):
            chunk += b"," * bool(number) + row
            if len(chunk) >= _CHUNK:
                await response.write(bytes(chunk))
                chunk.clear()
        if fault is Fault.TRUNCATE:
            await response.write(bytes(chunk[: len(chunk) // 2]))
            return _close_early(request, response)
        await response.write(bytes(chunk) + b"]}")
        await response.write_eof()
        return response

    async def get(self, request: web.Request, _: AnyFault | None) -> web.StreamResponse:
        return web.Response(body=self._aluma.get(request.match_info["id"]), content_type="application/json")

    def state_change(self, verb: str) -> FaultyHandler:
        async def handle(request: web.Request, fault: AnyFault | None) -> web.StreamResponse:
            task_id, status = request.match_info["id"], self._aluma.behaviour.success_status
            if request.query.get("action") != "export":
                return _error_response(400, "unknown action")
            if verb == "start":
                body = self._aluma.start(task_id)
                if fault is Fault.TRUNCATE:
                    return await _truncated(request, body, 202)
                return web.Response(status=202, body=body, content_type="application/json")
            if verb == "fail":
                sent = msgspec.json.decode(await request.read(), type=dict[str, str])
                self._aluma.fail(task_id, sent["message"])
            else:
                {"complete": self._aluma.complete, "cancel": self._aluma.cancel}[verb](task_id)
            return web.Response(status=status)

        return handle

    async def file(self, request: web.Request, fault: AnyFault | None) -> web.StreamResponse:
        body = self._aluma.file(request.match_info["collection"], request.match_info["file"])
        if fault is WrongReply.OTHER_VERSION:
            return await _other_version(request, body)
        if fault is WrongReply.CUT:
            body = body[: len(body) // 2]
        response = web.StreamResponse(headers={"Content-Type": "application/pdf"})
        offset = 0
        if self._aluma.behaviour.resumable:
            response.headers["ETag"] = f'"{zlib.crc32(body):x}"'
            requested = request.http_range.start
            if requested is not None and request.headers.get("If-Range") == response.headers["ETag"]:
                offset = requested
                response.set_status(206)
                response.headers["Content-Range"] = f"bytes {offset}-{len(body) - 1}/{len(body)}"
        view = memoryview(body)[offset:]
        if self._aluma.behaviour.framing == "length" or fault is Fault.TRUNCATE:
            response.content_length = len(view)
        elif self._aluma.behaviour.framing == "chunked":
            response.enable_chunked_encoding()
        else:
            response.force_close()
            response._length_check = False  # noqa: SLF001 - aiohttp has no public option to omit the framing
        await response.prepare(request)
        if fault is Fault.TRUNCATE:
            await response.write(view[: len(view) // 2])
            # Lets the client read the data first, because aiohttp discards unread data when a connection ends.
            await asyncio.sleep(0.01)
            return _close_early(request, response)
        for start in range(0, len(view), _CHUNK):
            await response.write(view[start : start + _CHUNK])
        await response.write_eof()
        return response

    async def observe(self, _: web.Request) -> web.StreamResponse:
        aluma = self._aluma
        return web.json_response(
            {"tasks": aluma.count_by_state(), "requests": dict(aluma.counts), "in_flight_peak": aluma.in_flight_peak}
        )


def _error_response(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


def _throttled(seconds: float) -> web.Response:
    headers = {"Retry-After": f"{seconds:.0f}"} if seconds else {}
    return web.json_response({"message": "too many requests"}, status=429, headers=headers)


def _wrong_reply(reply: WrongReply) -> web.Response | None:
    """Return the reply if it does not depend on the request."""
    match reply:
        case WrongReply.NOT_FOUND:
            return _error_response(404, "no route matched")
        case WrongReply.NOT_FOUND_PAGE:
            return web.Response(status=404, text="default backend - 404")
        case WrongReply.LOG_IN:
            return web.Response(status=401, text=_PAGE, content_type="text/html")
        case WrongReply.FORBIDDEN:
            return _error_response(403, "access denied")
        case WrongReply.NOT_ALLOWED:
            return web.Response(status=405, text=_PAGE, content_type="text/html")
        case WrongReply.JSON_ERROR:
            return _error_response(200, "internal error")
        case WrongReply.LOG_IN_PAGE:
            return web.Response(text=_PAGE, content_type="application/pdf")
        case WrongReply.EMPTY:
            return web.Response(content_type="application/pdf")
    return None


async def _other_version(request: web.Request, body: bytes) -> web.StreamResponse:
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
    return _close_early(request, response)


def _drop(request: web.Request) -> web.Response:
    """Abort the connection without a response."""
    request[_END] = "abort"
    return web.Response()


async def _truncated(request: web.Request, body: bytes, status: int) -> web.StreamResponse:
    """Send half of a body whose full length was announced."""
    response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _close_early(request, response)


def _close_early(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection in the middle of a body."""
    request[_END] = "close"
    return response
