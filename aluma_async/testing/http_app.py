"""The simulated Aluma over HTTP: ``simulated_app``, an aiohttp application, and ``serve``, which runs it."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec
from aiohttp import web

from aluma_async.testing.faults import AnyFault, Fault, FaultPlan, WrongReply
from aluma_async.testing.http_replies import (
    END,
    PAGE,
    altered,
    close_early,
    digest_header,
    doubly_chunked,
    drop,
    error_response,
    other_version,
    throttled,
    truncated,
    wrong_reply,
)
from aluma_async.testing.sample_data import has_end
from aluma_async.testing.simulator import NotFound, SimulatedAluma, StateConflict

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FaultyHandler = Callable[[web.Request, AnyFault | None], Awaitable[web.StreamResponse]]

_CHUNK = 256 * 1024
_SURPLUS_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nContent-Length: 19\r\n\r\n%PDF-1.4 of no task"
_TOKEN = web.RequestKey("token", str)


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
        self._started: dict[str, bytes] = {}  # the last specification with a URL, by token

    def wrap(self, verb: str, handler: FaultyHandler) -> Handler:
        """Return a handler that counts, delays and authorizes a request, and applies its fault."""

        async def handle(request: web.Request) -> web.StreamResponse:
            aluma, behaviour = self._aluma, self._aluma.behaviour
            try:
                if not aluma.request_started():
                    return throttled(behaviour.retry_after_seconds)
                if behaviour.latency_seconds:
                    await asyncio.sleep(behaviour.latency_seconds)
                fault = self._faults.next(verb)
                match fault:
                    case Fault.DROP_BEFORE:
                        return drop(request)
                    case Fault.ERROR_BEFORE:
                        return web.Response(status=503, text="<html>try again</html>", content_type="text/html")
                    case Fault.THROTTLE:
                        return throttled(1)
                    case Fault.HTML:
                        return web.Response(text="<html>please log in</html>", content_type="text/html")
                    case WrongReply() if reply := wrong_reply(fault):
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
                request[_TOKEN] = request.headers.get("Authorization", "").removeprefix("Bearer ")
                if verb != "token" and not aluma.accepts(request[_TOKEN]):
                    return error_response(401, "missing or expired token")
                try:
                    response = await handler(request, fault)
                except StateConflict as conflict:
                    return error_response(behaviour.conflict_status, f"the task is in state {conflict}")
                except NotFound:
                    return error_response(404, "not found")
                if fault is Fault.DROP_AFTER:
                    return drop(request)
                if fault is Fault.ERROR_AFTER:
                    return web.Response(status=502, text="Bad gateway")
                if fault is WrongReply.BLOCKED:
                    return web.Response(status=403, text=PAGE, content_type="text/html")
                if fault is WrongReply.OTHER_SUCCESS and not response.prepared:
                    response.set_status(201)
                if not response.prepared and END not in request:
                    # Sent here, because the request is in flight until its response has left.
                    await response.prepare(request)
                    await response.write_eof()
                if fault is WrongReply.SURPLUS and request.transport and END not in request:
                    transport = request.transport
                    getattr(transport, "write_when_idle", transport.write)(_SURPLUS_RESPONSE)
                return response
            finally:
                aluma.request_finished()  # before the client sees the connection end and sends its next request
                if request.transport and (end := request.get(END)):
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
            return error_response(400, "not JSON")
        token = self._aluma.issue_token(sent.get("client_id", ""), sent.get("client_secret", ""))
        if token is None:
            return error_response(401, "invalid client")
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
            return close_early(request, response)
        await response.write(bytes(chunk) + b"]}")
        await response.write_eof()
        return response

    async def get(self, request: web.Request, _: AnyFault | None) -> web.StreamResponse:
        return web.Response(body=self._aluma.get(request.match_info["id"]), content_type="application/json")

    def state_change(self, verb: str) -> FaultyHandler:
        async def handle(request: web.Request, fault: AnyFault | None) -> web.StreamResponse:
            task_id, status = request.match_info["id"], self._aluma.behaviour.success_status
            if request.query.get("action") != "export":
                return error_response(400, "unknown action")
            if verb == "start":
                body = self._aluma.start(task_id)
                previous = self._started.get(request[_TOKEN], body)
                if b"file_collections" in body:
                    self._started[request[_TOKEN]] = body
                if fault is WrongReply.OTHER_SPECIFICATION:
                    body = previous
                body = self._aluma.changed(body, fault)
                if fault is Fault.TRUNCATE:
                    return await truncated(request, body, 202)
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
            return await other_version(request, body)
        headers = {"Content-Type": "application/pdf"}
        if fault is WrongReply.CUT and has_end(body):
            body = body[: len(body) // 2]
        elif fault is WrongReply.DOUBLY_CHUNKED:
            body = doubly_chunked(body)
        elif fault is WrongReply.ALTERED:
            headers |= digest_header(body)
            body = altered(body)
        response = web.StreamResponse(headers=headers)
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
            return close_early(request, response)
        for start in range(0, len(view), _CHUNK):
            await response.write(view[start : start + _CHUNK])
        await response.write_eof()
        return response

    async def observe(self, _: web.Request) -> web.StreamResponse:
        aluma = self._aluma
        return web.json_response(
            {"tasks": aluma.count_by_state(), "requests": dict(aluma.counts), "in_flight_peak": aluma.in_flight_peak}
        )
