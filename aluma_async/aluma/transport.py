"""``ApiTransport``: sends API requests with a valid token, holds a permit for each, and follows allowed redirects.

Guarantees: the token is sent only to the API's own origin. A request that changes a task is awaited until its
response arrives, even if the caller is cancelled. Of the API's endpoints, this module knows only the one for tokens.
"""

from collections.abc import Mapping
from types import MappingProxyType, TracebackType

import aiohttp
from yarl import URL

from aluma_async.aluma import responses, wire
from aluma_async.aluma.redirects import MAX_REDIRECTS, REDIRECT_STATUSES, resolve_redirect
from aluma_async.aluma.stall_watch import WatchedRequest
from aluma_async.aluma.token import TokenCache
from aluma_async.aluma.transport_errors import TRANSPORT_ERRORS, map_transport_error, prevent_resend
from aluma_async.aluma.urls import DownloadUrls, Target
from aluma_async.clock import loop_time
from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.config import Credentials
from aluma_async.config.config import REQUEST_TIMEOUT_SECONDS
from aluma_async.exceptions import (
    AuthenticationFailed,
    InvalidResponse,
    Unavailable,
)
from aluma_async.ports import BEFORE_SENDING, RequestLimiter

# For listings and downloads, which may take long, the limit applies to each wait for data, else to the whole request.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=REQUEST_TIMEOUT_SECONDS)
CALL_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, sock_connect=10)
_CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)  # SharedDeadline limits the whole request


class ApiTransport:
    """Sends requests to the API at ``base_url``, and downloads also to the other hosts that ``urls`` permits."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        credentials: Credentials,
        request_limiter: RequestLimiter,
        urls: DownloadUrls,
        *,
        max_specification_bytes: int,
        verify_digests: bool,
    ) -> None:
        self.session = session
        self.request_limiter = request_limiter
        self.token_cache = TokenCache(self._fetch_token)
        self.urls = urls
        self._base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._max_specification_bytes = max_specification_bytes
        self._verify_digests = verify_digests
        self.deadline = SharedDeadline(REQUEST_TIMEOUT_SECONDS)

    def get(
        self,
        operation: str,
        target: Target,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        timeout: aiohttp.ClientTimeout = STREAM_TIMEOUT,
        urgent: bool = False,
        probe: bool = False,
        kind: responses.RequestKind = responses.READ,
    ) -> "_GetRequest":
        """Return a context manager that sends a GET and holds its permit until the block is left.

        ``probe``: the request tests a pause.
        """
        return _GetRequest(self, operation, target, headers, timeout, kind, None, urgent, probe)

    def download(
        self, operation: str, target: Target, headers: Mapping[str, str], request: WatchedRequest
    ) -> "_GetRequest":
        """Return a context manager as ``get`` does, which also follows redirects."""
        return _GetRequest(self, operation, target, headers, STREAM_TIMEOUT, request.kind, request, False, False)

    async def put(self, operation: str, path: str, body: object, request: WatchedRequest) -> tuple[float, bytes]:
        """Send a PUT. Return when it was sent, and the response's body, which may be empty unless it is a Start."""
        url, is_start = self.url(path), request.kind is responses.START
        for attempts_left in (1, 0):
            token = await self.token_cache.token()
            async with self.request_limiter.permit(urgent=not is_start) as sent_at:
                BEFORE_SENDING.get()()
                response_body = await self._change(operation, url, body, token, sent_at, request)
            if response_body is not None:
                return sent_at, response_body
            self.discard_token(token, attempts_left)
        raise AssertionError  # discard_token raised on the second refusal

    async def _change(
        self, operation: str, url: URL, body: object, token: str, sent_at: float, request: WatchedRequest
    ) -> bytes | None:
        """Send a PUT once. Return the body of a successful response, or None if the token was refused."""
        # Shielded, because without the response it is unknown whether the task is claimed.
        with self.deadline.scope(sent_at, shield=True) as scope:
            try:
                request.begin(sent_at, scope.cancel)
                async with self.session.put(
                    url,
                    json=body,
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=_CHANGE_TIMEOUT,
                    allow_redirects=False,
                    middlewares=(prevent_resend,),
                ) as response:
                    request.response, request.is_answered = response, True
                    if response.status == 401:
                        return None
                    await responses.raise_for_status(operation, response, request.kind)
                    if request.kind is not responses.START:
                        return await responses.read_accepted(operation, response)
                    return await responses.read_accepted(
                        operation,
                        response,
                        max_specification_bytes=self._max_specification_bytes,
                        verify_digests=self._verify_digests,
                    )
            except TRANSPORT_ERRORS as error:
                raise map_transport_error(operation, error, changes=True) from None
            finally:
                request.finish()
        if request.ended_early:
            raise request.error(operation)
        raise map_transport_error(operation, TimeoutError(), changes=True)

    def url(self, path: str) -> URL:
        """Append an encoded ``path`` to the base URL; ``urljoin`` would drop its path."""
        return URL(self._base_url + path, encoded=True)

    def discard_token(self, token: str, attempts_left: int) -> None:
        """Discard a refused token. Raises ``AuthenticationFailed`` if no attempts are left."""
        self.token_cache.discard(token)
        if not attempts_left:
            raise AuthenticationFailed(
                "Aluma refused a token that it had just issued (401)", hint=responses.CREDENTIALS_HINT
            )

    async def _fetch_token(self) -> tuple[str, float]:
        operation = "get a token"
        credentials = {"client_id": self._credentials.client_id, "client_secret": self._credentials.client_secret}
        url = self.url("/oauth/token")
        async with self.request_limiter.permit(urgent=True):
            try:
                async with self.session.post(
                    url, json=credentials, timeout=CALL_TIMEOUT, allow_redirects=False
                ) as response:
                    await responses.raise_for_status(operation, response, responses.TOKEN)
                    return wire.decode_token(await responses.read_body(response, responses.MAX_ERROR_BODY_BYTES))
            except TRANSPORT_ERRORS as error:
                raise map_transport_error(operation, error, changes=False) from None
            except InvalidResponse as error:
                # Another class, because that one would mean that Start was executed, for which the token is needed.
                raise Unavailable(str(error), hint=error.hint) from None


class _GetRequest:
    """A GET, repeated with a new token if the token is refused, or at the target of a redirect.

    A class, because a generator-based context manager would add 10 % to the cost of the request.
    """

    __slots__ = (
        "_headers",
        "_is_api",
        "_kind",
        "_operation",
        "_owner",
        "_permit",
        "_probe",
        "_redirects",
        "_request",
        "_response",
        "_timeout",
        "_urgent",
        "_url",
    )

    def __init__(
        self,
        owner: ApiTransport,
        operation: str,
        target: Target,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        kind: responses.RequestKind,
        request: WatchedRequest | None,
        urgent: bool,
        probe: bool,
    ) -> None:
        self._urgent, self._probe = urgent, probe
        self._kind = kind
        self._owner = owner
        self._operation = operation
        self._url, self._is_api = target
        self._headers = headers
        self._timeout = timeout
        self._request = request
        self._redirects = MAX_REDIRECTS if request else 0

    async def __aenter__(self) -> aiohttp.ClientResponse:
        owner, attempts_left = self._owner, 1
        while True:
            token = await owner.token_cache.token() if self._is_api else ""
            limiter = owner.request_limiter
            self._permit = limiter.probe_permit() if self._probe else limiter.permit(urgent=self._urgent)
            await self._permit.__aenter__()
            try:
                result = await self._send(token)
            except BaseException as error:
                self._finish()
                await self._permit.__aexit__(type(error), error, error.__traceback__)
                raise
            if isinstance(result, aiohttp.ClientResponse):
                self._response = result
                return result
            self._finish()
            await self._permit.__aexit__(None, None, None)
            if result is None:
                owner.discard_token(token, attempts_left)
                attempts_left -= 1
            else:
                self._url, self._is_api = result

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.release()
        self._finish()
        await self._permit.__aexit__(kind, error, trace)

    def _finish(self) -> None:
        if self._request:
            self._request.finish()

    async def _send(self, token: str) -> aiohttp.ClientResponse | Target | None:
        """Send the request once. Return the response, the target of a redirect, or None if the token was refused."""
        owner, operation, request = self._owner, self._operation, self._request
        headers = {"Authorization": f"Bearer {token}", **self._headers} if token else self._headers
        try:
            # The time-out of the session does not cover a proxy that accepts CONNECT and does not answer it.
            response = None
            sent_at = loop_time()
            with owner.deadline.scope(sent_at) as scope:
                if request:
                    request.begin(sent_at, scope.cancel)
                response = await owner.session.get(
                    self._url, headers=headers, timeout=self._timeout, allow_redirects=False
                )
        except TRANSPORT_ERRORS as error:
            raise map_transport_error(operation, error, changes=False) from None
        if response is None:
            if request and request.ended_early:
                raise request.error(operation)
            raise map_transport_error(operation, TimeoutError(), changes=False)
        if request:
            request.receive(response)
        successful = False
        try:
            if self._redirects and response.status in REDIRECT_STATUSES:
                self._redirects -= 1
                location = response.headers.get("Location", "")
                return resolve_redirect(operation, self._url, location, owner.urls)
            if response.status == 401 and token:
                return None
            await responses.raise_for_status(operation, response, self._kind)
            successful = True
            return response
        finally:
            if not successful:
                response.release()
