"""``AlumaClient``: a ``TaskSource`` that speaks HTTP. One request a call; it never repeats one, but for a stale token.

It promises: the token is sent to the API's own origin only; no redirect is followed, but that of a download to
where one may be; a download that is not provably whole raises; a request that changes a task is awaited to its
answer even if the caller is cancelled; no exception holds a token, a secret or content.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import MappingProxyType
from urllib.parse import quote

import aiohttp
import anyio
from yarl import URL

from aluma_async.aluma import replies, wire
from aluma_async.aluma.auth import TokenKeeper
from aluma_async.aluma.downloads import MOST_REDIRECTS, REDIRECTS, Download, DownloadLimits, redirected
from aluma_async.config import Credentials
from aluma_async.events import Event, RowSkipped
from aluma_async.exceptions import CredentialsRefused, FileMissing, SourceError
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.ports import OnEvent, Permits

LONGEST_REQUEST = 60.0
"""Seconds for any request but a listing and a download; for these, seconds without a byte."""

_CREDENTIALS_HINT = "Check ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file."
_READ = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=LONGEST_REQUEST)
_CALL = aiohttp.ClientTimeout(total=LONGEST_REQUEST, sock_connect=10)


class _Unlimited:
    """Permits without a limit, for a client that is used alone."""

    @asynccontextmanager
    async def permit(self, *, urgent: bool = False) -> AsyncIterator[None]:  # noqa: ARG002 - the port has it
        yield

    async def received(self, count: int) -> None:
        pass


class AlumaClient:
    """Aluma's tasks API.

    ``base_url`` may have a path. ``projects`` (ids or names) limits listings. ``session`` stays the
    caller's; it needs no settings, but a connection limit below that of ``permits`` makes requests wait.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: Credentials,
        *,
        projects: Collection[str] = (),
        downloads: DownloadLimits = DownloadLimits(),  # noqa: B008 - frozen
        permits: Permits | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._projects = frozenset(projects)
        self._downloads = downloads
        self._permits: Permits = permits or _Unlimited()
        self._on_event: Callable[[Event], None] = on_event or (lambda _: None)
        self._keeper = TokenKeeper(self._fetch_token)

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the tasks that wait for export, oldest first, as they arrive."""
        decoder = wire.ListingDecoder(lambda reason: self._on_event(RowSkipped(reason)))
        path = f"/tasks?state={wire.PENDING}&client_action=export"
        async with self._reading("list tasks", path) as response:
            while piece := await replies.piece("list tasks", response):
                await self._permits.received(len(piece))
                if tasks := self._wanted(decoder.feed(piece)):
                    yield tasks
        if tasks := self._wanted(decoder.close()):
            yield tasks

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task."""
        sent_at, body = await self._change("start", task)
        return Claim(task, wire.export_spec(body), sent_at)

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download; its bytes come as they arrive."""
        what = f"download file {file.number} of task {claim.task.id}"
        if why := wire.unsafe_url(file.url):
            raise SourceError(f"{what}: {why}")
        fetch = partial(self._reading, what, file.url, redirects=MOST_REDIRECTS)
        return Download(what, file, fetch, self._permits, self._downloads)

    async def complete(self, task: ExportTask) -> None:
        """Say that a task is exported."""
        await self._change("complete", task)

    async def cancel(self, task: ExportTask) -> None:
        """Give a task back."""
        await self._change("cancel", task)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Say that a task can never be exported."""
        await self._change("fail", task, {"message": message})

    async def state(self, task: ExportTask) -> str | None:
        """Tell a task's state; None if Aluma does not know it."""
        what = f"look up task {task.id}"
        try:
            async with self._reading(what, f"/tasks/{quote(task.id, safe='')}", timeout=_CALL) as response:
                with replies.told(what, changes=False):
                    return wire.state(await replies.body(response, replies.LONGEST_ERROR))
        except FileMissing:
            return None

    def _wanted(self, tasks: list[ExportTask]) -> list[ExportTask]:
        if not self._projects:
            return tasks
        return [t for t in tasks if t.project_id in self._projects or t.project_name in self._projects]

    async def _change(self, verb: str, task: ExportTask, body: object = None) -> tuple[float, bytes]:
        """Send a PUT; return when it was sent, and the body of the reply to a Start."""
        what = f"{verb} task {task.id}"
        url = self._url(f"/tasks/{quote(task.id, safe='')}/{verb}_client_action?action=export")
        for chances in (1, 0):
            token = await self._keeper.token()
            # Once a permit is held the answer is awaited: without it nobody would know whose the task is.
            async with self._permits.permit(urgent=verb != "start"):
                with anyio.CancelScope(shield=True), replies.told(what, changes=True):
                    sent_at = anyio.current_time()
                    async with self._session.put(
                        url,
                        json=body,
                        headers={"Authorization": f"Bearer {token}"},
                        timeout=_CALL,
                        allow_redirects=False,
                        middlewares=(replies.no_replay,),
                    ) as response:
                        if response.status != 401:
                            await replies.check(what, response, changes=True)
                            return sent_at, await replies.accepted(response, needed=verb == "start")
            self._token_refused(token, chances)
        raise AssertionError  # the second refusal has raised

    @asynccontextmanager
    async def _reading(
        self,
        what: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        timeout: aiohttp.ClientTimeout = _READ,
        redirects: int = 0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a GET; its permit is held until the block is left."""
        url, at_home, chances = self._url(path), True, 1
        while True:
            token = await self._keeper.token() if at_home else None
            authorization = {"Authorization": f"Bearer {token}"} if token else {}
            async with self._permits.permit():
                with replies.told(what, changes=False):
                    response = await self._session.get(
                        url, headers={**authorization, **headers}, timeout=timeout, allow_redirects=False
                    )
                async with response:
                    if redirects and response.status in REDIRECTS:
                        location = response.headers.get("Location", "")
                        api = URL(self._base_url)
                        url = redirected(what, url, location, api, self._downloads.hosts)
                        at_home = url.origin() == api.origin()
                        redirects -= 1
                        continue
                    if response.status != 401 or token is None:
                        with replies.told(what, changes=False):
                            await replies.check(what, response, changes=False)
                        yield response
                        return
            self._token_refused(token, chances)
            chances -= 1

    async def _fetch_token(self) -> tuple[str, float]:
        what = "get a token"
        async with self._permits.permit(urgent=True):
            with replies.told(what, changes=False):
                async with self._session.post(
                    self._url("/oauth/token"),
                    json={
                        "client_id": self._credentials.client_id,
                        "client_secret": self._credentials.client_secret,
                    },
                    timeout=_CALL,
                    allow_redirects=False,
                ) as response:
                    if response.status in (400, 401, 403):
                        raise CredentialsRefused(
                            f"Aluma refused the client id and secret ({response.status})", hint=_CREDENTIALS_HINT
                        )
                    await replies.check(what, response, changes=False)
                    return wire.token(await replies.body(response, replies.LONGEST_ERROR))

    def _token_refused(self, token: str, chances: int) -> None:
        self._keeper.discard(token)
        if not chances:
            raise CredentialsRefused("Aluma refused a token that it had just given (401)", hint=_CREDENTIALS_HINT)

    def _url(self, path: str) -> URL:
        # Joined by hand: urljoin would drop the base URL's path. Not encoded again: Aluma's urls are sent as they came.
        return URL(self._base_url + path, encoded=True)
