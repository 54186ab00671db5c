"""``AlumaClient``: a ``TaskSource`` for Aluma's HTTP API.

Guarantees: the token is sent only to the API's own origin. Only downloads use other hosts or follow redirects, and
only to allowed hosts. A download that is not provably complete raises an error. A request that changes a task is
awaited until its response arrives, even if the caller is cancelled. No exception contains a token, a secret or content.

Each call sends one request. A request is repeated only with a new token, after Aluma refused the old one.
"""

import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import quote

import aiohttp
import anyio
import anyio.to_thread

from aluma_async.aluma import responses, wire
from aluma_async.aluma.download import Download, DownloadLimits
from aluma_async.aluma.listing import HEAD_BYTES, ListingDecoder, is_listing
from aluma_async.aluma.minimum_rate import MinimumRate
from aluma_async.aluma.pauses import PauseVerifier
from aluma_async.aluma.project_filter import ProjectFilter
from aluma_async.aluma.stall_watch import StallWatch, WatchedRequest
from aluma_async.aluma.started_tasks import StartedTasks
from aluma_async.aluma.transport import CALL_TIMEOUT, ApiTransport
from aluma_async.aluma.transport_errors import TRANSPORT_ERRORS, map_transport_error
from aluma_async.aluma.urls import DownloadUrls, RefusedUrl, Target
from aluma_async.clock import loop_time
from aluma_async.config import Credentials
from aluma_async.connections import DISTRUST_SECONDS, guard_connections
from aluma_async.events import Event, ListingIncomplete, RowSkipped, UnrequestedResponse
from aluma_async.exceptions import Ambiguous, FileMissing, InvalidResponse, SourceError
from aluma_async.models import Claim, ExportFile, ExportTask, TaskState
from aluma_async.ports import OnEvent, RequestLimiter

_MAX_INLINE_BYTES = 1024 * 1024
"""Size up to which an Export Specification is decoded in the event loop. One that is hard to check takes half a second
for each MiB."""
_SLOW_FACTOR = 20
"""Multiple of the minimum rate below which a download gives way to other tasks."""
_NEXT_LINK = re.compile(r"""\brel\s*=\s*(?:"[^"]*\bnext\b|next\b)""", re.IGNORECASE)
"""A link to the next page (RFC 8288)."""
_MIX_UP_HINT = (
    "Check whether a proxy mixes up responses. If the specification is right, set verify_content = false under [aluma]."
)
_PLAIN = re.compile("[A-Za-z0-9_-]+").fullmatch  # ids that need no quoting; all of Aluma's ids match


class _Unlimited:
    """A ``RequestLimiter`` without a limit, for a client that is used on its own."""

    is_contended = pause_is_unverified = False

    @asynccontextmanager
    async def permit(self, *, urgent: bool = False) -> AsyncIterator[float]:  # noqa: ARG002 - the port has it
        yield loop_time()

    def probe_permit(self) -> AbstractAsyncContextManager[float]:
        return self.permit()

    def end_pause(self) -> None:
        pass

    async def consume_bytes(self, count: int) -> None:
        pass


class AlumaClient:
    """Client for Aluma's tasks API.

    Args:
        session: The HTTP session. The caller owns it and closes it. It needs no settings, but if its connection limit
            is lower than the limit of ``request_limiter``, requests wait for a connection. Its connector should be a
            ``connections.GuardedConnector``; otherwise its connections are guarded, but do not rest between requests.
        base_url: Root URL of the API; may contain a path.
        credentials: Client id and secret; exchanged for a token before the first request.
        projects: Ids or names of projects; listings contain only their tasks. Empty: all projects.
        downloads: Limits for downloads, and the hosts other than the API's that they may use.
        max_files: Maximum number of files of one task; 0: no limit.
        request_limiter: Limits all requests, including those for tokens and downloads. None: no limit.
        on_event: Receives ``RowSkipped``, ``ListingIncomplete``, ``ProjectsFiltered``, ``ProjectUnmatched`` and
            ``UnrequestedResponse``.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: Credentials,
        *,
        projects: Collection[str] = (),
        downloads: DownloadLimits = DownloadLimits(),  # noqa: B008 - frozen
        max_files: int = 0,
        request_limiter: RequestLimiter | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._request_limiter: RequestLimiter = request_limiter or _Unlimited()
        self._urls = DownloadUrls(base_url, downloads.hosts)
        self._transport = ApiTransport(
            session,
            base_url,
            credentials,
            self._request_limiter,
            self._urls,
            max_specification_bytes=downloads.max_specification_bytes,
            verify_digests=downloads.verify_content,
        )
        self._stalls = StallWatch(
            _SLOW_FACTOR * downloads.min_bytes_per_second, lambda: self._request_limiter.is_contended
        )
        self._pauses = PauseVerifier(self._transport, self._listing(TaskState.PENDING))
        self._filter = ProjectFilter(projects)
        self._downloads = downloads
        self._max_files = max_files
        self._rows_read = 0
        self._started = StartedTasks()
        self._on_event: Callable[[Event], None] = on_event or (lambda _: None)
        guard_connections(session.connector, lambda: self._on_event(UnrequestedResponse(DISTRUST_SECONDS)))

    @property
    def paused_requests(self) -> int:
        """Number of requests in flight whose response is not waited for, because a destination stores what it has."""
        return self._stalls.paused_requests

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the pending tasks, oldest first, while the response arrives."""
        decoder = ListingDecoder(lambda reason: self._on_event(RowSkipped(reason)), self._rows_read)
        rate = MinimumRate(self._downloads.min_bytes_per_second)
        async with self._transport.get("list tasks", self._listing(TaskState.PENDING)) as response:
            has_link = _NEXT_LINK.search(response.headers.get("Link", "")) is not None
            while chunk := await self._read_chunk("list tasks", response, rate):
                if tasks := self._filter.select(decoder.feed(chunk)):
                    yield tasks
            last_tasks = decoder.close()  # while the request holds its permit, because it fails if there is no listing
        if tasks := self._filter.select(last_tasks):
            yield tasks
        self._rows_read = decoder.readable
        if problem := decoder.problem or ("it has a link to a next page" if has_link else ""):
            self._on_event(ListingIncomplete(problem))
        for event in self._filter.end_listing():
            self._on_event(event)

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task."""
        if self._filter.is_active and self._filter.excludes(task):
            raise SourceError(
                f"start task {task.id}: the listing has the task with another project, too, which is not selected",
                hint="Ask Aluma for the project of the task.",
            )
        self._started.add(task)
        sent_at, body = await self._change("start", task)
        verify_content = self._downloads.verify_content
        decode = partial(wire.export_spec, body, self._urls, max_files=self._max_files, verify_content=verify_content)
        if len(body) > _MAX_INLINE_BYTES:
            with anyio.CancelScope(shield=True):  # the task is claimed
                spec = await anyio.to_thread.run_sync(decode)
        else:
            spec = decode()
        if verify_content and self._started.is_of_another_task(task, spec):
            raise Ambiguous(
                f"start task {task.id}: received the Export Specification of another task", hint=_MIX_UP_HINT
            )
        return Claim(task, spec, sent_at)

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the download of a file; the chunks are yielded as they arrive."""
        operation = f"download file {file.number} of task {claim.task.id}"
        target = self._urls.resolve(file.url)
        if isinstance(target, RefusedUrl):
            raise SourceError(f"{operation}: {target.reason}", hint=target.hint)
        request = WatchedRequest(self._stalls, responses.DOWNLOAD, claim.task.id)
        fetch = partial(self._transport.download, operation, target)
        return Download(operation, file, fetch, request, self._request_limiter, self._downloads, self._pauses.verify)

    async def complete(self, task: ExportTask) -> None:
        """Complete a task: it is exported."""
        await self._change("complete", task)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel a claim, which releases the task."""
        await self._change("cancel", task)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail a task: it can never be exported."""
        await self._change("fail", task, {"message": message})

    async def state(self, task: ExportTask) -> str | None:
        """Return the state of a task, or None if Aluma has no such task.

        A gateway also answers 404, while it has no route. So after a 404, the listings must not contain the task.
        """
        state = await self._state(task)
        if state is None:
            for listed in (TaskState.CLAIMED, TaskState.PENDING):
                if await self._is_listed(task, listed):
                    return listed
        return state

    async def _is_listed(self, task: ExportTask, state: TaskState) -> bool:
        """Return whether the listing of a state contains a task. Raises ``SourceError`` if there is no listing."""
        operation, wanted = f"look up task {task.id} in a listing", b'"%b"' % task.id.encode()
        head = window = b""
        rate = MinimumRate(self._downloads.min_bytes_per_second)
        async with self._transport.get(operation, self._listing(state), urgent=True) as response:
            while chunk := await self._read_chunk(operation, response, rate):
                head = head if len(head) > HEAD_BYTES else head + chunk
                window = window[-len(wanted) :] + chunk
                if wanted in window:
                    return True
        if not (is_listing(head) and window.rstrip().endswith(b"}")):
            raise InvalidResponse(f"{operation}: not the documented JSON", hint=responses.URL_HINT)
        return False

    async def _read_chunk(self, operation: str, response: aiohttp.ClientResponse, rate: MinimumRate) -> bytes:
        """Return the next chunk of a listing, empty at the end. Raises ``SourceError``, also if it is too slow."""
        waiting_since = loop_time()
        if chunk := await responses.read_chunk(operation, response):
            rate.record(operation, loop_time() - waiting_since, len(chunk))
            await self._request_limiter.consume_bytes(len(chunk))
        return chunk

    async def _state(self, task: ExportTask) -> str | None:
        operation = f"look up task {task.id}"
        target = Target(self._transport.url(_path(task)), is_api=True)
        try:
            async with self._transport.get(
                operation, target, timeout=CALL_TIMEOUT, urgent=True, kind=responses.LOOK_UP
            ) as response:
                return wire.decode_state(await responses.read_body(response, responses.MAX_ERROR_BODY_BYTES))
        except FileMissing:
            return None
        except SourceError as error:
            await self._pauses.verify(error)
            raise
        except TRANSPORT_ERRORS as error:
            raise map_transport_error(operation, error, changes=False) from None

    def _listing(self, state: TaskState) -> Target:
        return Target(self._transport.url(f"/tasks?state={state}&client_action=export"), is_api=True)

    async def _change(self, verb: str, task: ExportTask, body: object = None) -> tuple[float, bytes]:
        path = f"{_path(task)}/{verb}_client_action?action=export"
        request = WatchedRequest(self._stalls, responses.START if verb == "start" else responses.SETTLE, task.id)
        try:
            answer = await self._transport.put(f"{verb} task {task.id}", path, body, request)
        except SourceError as error:
            await self._pauses.verify(error)
            raise
        self._pauses.fruitless_tests = 0
        return answer


def _path(task: ExportTask) -> str:
    return "/tasks/" + (task.id if _PLAIN(task.id) else quote(task.id, safe=""))
