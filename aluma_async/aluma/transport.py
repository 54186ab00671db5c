"""``ApiTransport``: how a request is sent: with a good token, while a permit is held, and led only to where it may be.

It promises: the token is sent to the API's own origin only; a request that changes a task is awaited to its answer
even if the caller is cancelled. It knows no verb of the API but the one that gives tokens.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType, TracebackType

import aiohttp
from yarl import URL

from aluma_async.aluma import responses, wire
from aluma_async.aluma.download import REDIRECTS, resolve_redirect
from aluma_async.aluma.token import TokenCache
from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.config import Credentials
from aluma_async.exceptions import AuthenticationFailed
from aluma_async.ports import RequestLimiter

REQUEST_TIMEOUT_SECONDS = 60.0
"""Seconds for any request but a listing and a download; for these, seconds without a byte."""

STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=REQUEST_TIMEOUT_SECONDS)
CALL_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, sock_connect=10)
_CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)  # a time limit of ours ends it
_CREDENTIALS_HINT = "Check ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file."


class ApiTransport:
    """Sends to the API at ``base_url``, which may have a path; only downloads may go to ``redirect_hosts``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: Credentials,
        request_limiter: RequestLimiter,
        redirect_hosts: Collection[str],
    ) -> None:
        self.session = session
        self.base_url = base_url.rstrip("/")
        self.request_limiter = request_limiter
        self.token_cache = TokenCache(self._fetch_token)
        self.redirect_hosts = redirect_hosts
        self._credentials = credentials
        self._limit = SharedDeadline(REQUEST_TIMEOUT_SECONDS)

    def get(
        self,
        operation: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        timeout: aiohttp.ClientTimeout = STREAM_TIMEOUT,
        redirects: int = 0,
    ) -> "_GetRequest":
        """Send a GET; its permit is held until the block is left."""
        return _GetRequest(self, operation, self.url(path), headers, timeout, redirects)

    async def put(self, operation: str, path: str, body: object, *, urgent: bool, reply: bool) -> tuple[float, bytes]:
        """Send a PUT; return when it was sent, and the body of its reply where that is needed (``reply``)."""
        url = self.url(path)
        for attempts_left in (1, 0):
            token = await self.token_cache.token()
            async with self.request_limiter.permit(urgent=urgent) as sent_at:
                answer = await self._change(operation, url, body, token, sent_at, reply=reply)
            if answer is not None:
                return sent_at, answer
            self.discard_token(token, attempts_left)
        raise AssertionError  # the second refusal has raised

    async def _change(
        self, operation: str, url: URL, body: object, token: str, sent_at: float, *, reply: bool
    ) -> bytes | None:
        """Send a PUT once; the body of a good reply, or None if the token was refused."""
        # It is awaited to its answer: without that nobody would know whose the task is.
        with self._limit.scope(sent_at, shield=True):
            try:
                async with self.session.put(
                    url,
                    json=body,
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=_CHANGE_TIMEOUT,
                    allow_redirects=False,
                    middlewares=(responses.prevent_resend,),
                ) as response:
                    if response.status == 401:
                        return None
                    await responses.raise_for_status(operation, response, changes=True)
                    return await responses.read_accepted(response, needed=reply)
            except responses.TRANSPORT_ERRORS as error:
                raise responses.map_transport_error(operation, error, changes=True) from None
        raise responses.map_transport_error(operation, TimeoutError(), changes=True)

    def url(self, path: str) -> URL:
        """Join by hand: urljoin would drop the base URL's path. Aluma's urls go out as they came, not encoded again."""
        return URL(self.base_url + path, encoded=True)

    def discard_token(self, token: str, attempts_left: int) -> None:
        """Forget a token. Raises ``AuthenticationFailed`` if there are no more chances."""
        self.token_cache.discard(token)
        if not attempts_left:
            raise AuthenticationFailed("Aluma refused a token that it had just given (401)", hint=_CREDENTIALS_HINT)

    async def _fetch_token(self) -> tuple[str, float]:
        operation = "get a token"
        credentials = {"client_id": self._credentials.client_id, "client_secret": self._credentials.client_secret}
        url = self.url("/oauth/token")
        async with self.request_limiter.permit(urgent=True):
            try:
                async with self.session.post(
                    url, json=credentials, timeout=CALL_TIMEOUT, allow_redirects=False
                ) as response:
                    if response.status in (400, 401, 403):
                        raise AuthenticationFailed(
                            f"Aluma refused the client id and secret ({response.status})", hint=_CREDENTIALS_HINT
                        )
                    await responses.raise_for_status(operation, response, changes=False)
                    return wire.decode_token(await responses.read_body(response, responses.MAX_ERROR_BODY_BYTES))
            except responses.TRANSPORT_ERRORS as error:
                raise responses.map_transport_error(operation, error, changes=False) from None


class _GetRequest:
    """A GET: repeated with a fresh token, or where it is led to. A class, as a generator would cost a tenth of it."""

    __slots__ = ("_headers", "_operation", "_owner", "_permit", "_redirects", "_response", "_timeout", "_url")

    def __init__(
        self,
        owner: ApiTransport,
        operation: str,
        url: URL,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        redirects: int,
    ) -> None:
        self._owner = owner
        self._operation = operation
        self._url = url
        self._headers = headers
        self._timeout = timeout
        self._redirects = redirects

    async def __aenter__(self) -> aiohttp.ClientResponse:
        owner, is_api_origin, attempts_left = self._owner, True, 1
        while True:
            token = await owner.token_cache.token() if is_api_origin else ""
            self._permit = owner.request_limiter.permit()
            await self._permit.__aenter__()
            try:
                answer = await self._answer(token)
            except BaseException as error:
                await self._permit.__aexit__(type(error), error, error.__traceback__)
                raise
            if isinstance(answer, aiohttp.ClientResponse):
                self._response = answer
                return answer
            await self._permit.__aexit__(None, None, None)
            if answer is None:
                owner.discard_token(token, attempts_left)
                attempts_left -= 1
            else:
                self._url, is_api_origin = answer, answer.origin() == URL(owner.base_url).origin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.release()
        await self._permit.__aexit__(kind, error, trace)

    async def _answer(self, token: str) -> aiohttp.ClientResponse | URL | None:
        """Send it once: a good reply, where it was redirected to, or None if the token was refused."""
        owner, operation = self._owner, self._operation
        headers = {"Authorization": f"Bearer {token}", **self._headers} if token else self._headers
        try:
            response = await owner.session.get(self._url, headers=headers, timeout=self._timeout, allow_redirects=False)
        except responses.TRANSPORT_ERRORS as error:
            raise responses.map_transport_error(operation, error, changes=False) from None
        good = False
        try:
            if self._redirects and response.status in REDIRECTS:
                self._redirects -= 1
                location = response.headers.get("Location", "")
                return resolve_redirect(operation, self._url, location, URL(owner.base_url), owner.redirect_hosts)
            if response.status == 401 and token:
                return None
            await responses.raise_for_status(operation, response, changes=False)
            good = True
            return response
        finally:
            if not good:
                response.release()
