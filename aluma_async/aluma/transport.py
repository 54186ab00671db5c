"""``ApiTransport``: sends API requests with a valid token, holds a permit for each, and follows allowed redirects.

Guarantees: the token is sent only to the API's own origin. A request that changes a task is awaited until its
response arrives, even if the caller is cancelled. Of the API's endpoints, this module knows only the one for tokens.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType, TracebackType

import aiohttp
from yarl import URL

from aluma_async.aluma import responses, wire
from aluma_async.aluma.redirects import REDIRECT_STATUSES, resolve_redirect
from aluma_async.aluma.token import TokenCache
from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.config import Credentials
from aluma_async.config.config import REQUEST_TIMEOUT_SECONDS
from aluma_async.exceptions import AuthenticationFailed
from aluma_async.ports import RequestLimiter

# For listings and downloads, which may take long, the limit applies to each wait for data, else to the whole request.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=REQUEST_TIMEOUT_SECONDS)
CALL_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, sock_connect=10)
_CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)  # SharedDeadline limits the whole request
_CREDENTIALS_HINT = "Check ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file."


class ApiTransport:
    """Sends requests to the API at ``base_url``, and redirected downloads also to ``redirect_hosts``."""

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
        self._deadline = SharedDeadline(REQUEST_TIMEOUT_SECONDS)

    def get(
        self,
        operation: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        timeout: aiohttp.ClientTimeout = STREAM_TIMEOUT,
        redirects: int = 0,
    ) -> "_GetRequest":
        """Return a context manager that sends a GET and holds its permit until the block is left."""
        return _GetRequest(self, operation, self.url(path), headers, timeout, redirects)

    async def put(
        self, operation: str, path: str, body: object, *, urgent: bool, needs_body: bool
    ) -> tuple[float, bytes]:
        """Send a PUT. Return when it was sent, and the response's body if it is needed (else it may be empty)."""
        url = self.url(path)
        for attempts_left in (1, 0):
            token = await self.token_cache.token()
            async with self.request_limiter.permit(urgent=urgent) as sent_at:
                response_body = await self._change(operation, url, body, token, sent_at, needs_body=needs_body)
            if response_body is not None:
                return sent_at, response_body
            self.discard_token(token, attempts_left)
        raise AssertionError  # discard_token raised on the second refusal

    async def _change(
        self, operation: str, url: URL, body: object, token: str, sent_at: float, *, needs_body: bool
    ) -> bytes | None:
        """Send a PUT once. Return the body of a successful response, or None if the token was refused."""
        # Shielded, because without the response it is unknown whether the task is claimed.
        with self._deadline.scope(sent_at, shield=True):
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
                    return await responses.read_accepted(response, needed=needs_body)
            except responses.TRANSPORT_ERRORS as error:
                raise responses.map_transport_error(operation, error, changes=True) from None
        raise responses.map_transport_error(operation, TimeoutError(), changes=True)

    def url(self, path: str) -> URL:
        """Append ``path`` to the base URL; ``urljoin`` would drop its path. URLs from Aluma are already encoded."""
        return URL(self.base_url + path, encoded=True)

    def discard_token(self, token: str, attempts_left: int) -> None:
        """Discard a refused token. Raises ``AuthenticationFailed`` if no attempts are left."""
        self.token_cache.discard(token)
        if not attempts_left:
            raise AuthenticationFailed("Aluma refused a token that it had just issued (401)", hint=_CREDENTIALS_HINT)

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
    """A GET, repeated with a new token if the token is refused, or at the target of a redirect.

    A class, because a generator-based context manager would add 10 % to the cost of the request.
    """

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
                result = await self._send(token)
            except BaseException as error:
                await self._permit.__aexit__(type(error), error, error.__traceback__)
                raise
            if isinstance(result, aiohttp.ClientResponse):
                self._response = result
                return result
            await self._permit.__aexit__(None, None, None)
            if result is None:
                owner.discard_token(token, attempts_left)
                attempts_left -= 1
            else:
                self._url, is_api_origin = result, result.origin() == URL(owner.base_url).origin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.release()
        await self._permit.__aexit__(kind, error, trace)

    async def _send(self, token: str) -> aiohttp.ClientResponse | URL | None:
        """Send the request once. Return the response, the target of a redirect, or None if the token was refused."""
        owner, operation = self._owner, self._operation
        headers = {"Authorization": f"Bearer {token}", **self._headers} if token else self._headers
        try:
            response = await owner.session.get(self._url, headers=headers, timeout=self._timeout, allow_redirects=False)
        except responses.TRANSPORT_ERRORS as error:
            raise responses.map_transport_error(operation, error, changes=False) from None
        successful = False
        try:
            if self._redirects and response.status in REDIRECT_STATUSES:
                self._redirects -= 1
                location = response.headers.get("Location", "")
                return resolve_redirect(operation, self._url, location, URL(owner.base_url), owner.redirect_hosts)
            if response.status == 401 and token:
                return None
            await responses.raise_for_status(operation, response, changes=False)
            successful = True
            return response
        finally:
            if not successful:
                response.release()
