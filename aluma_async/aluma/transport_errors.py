"""Maps the exceptions of aiohttp for missing and incomplete responses to the errors of this package."""

import errno
from contextlib import suppress

import aiohttp
from yarl import URL

from aluma_async.exceptions import Ambiguous, InvalidResponse, SourceError, Unavailable, Unreachable

TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError)
"""Exceptions that aiohttp raises if there is no complete response; ``map_transport_error`` converts them."""

PROXY_HINT = "Check proxy under [aluma], including its user name and password, and the network's log-in."
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_DESCRIPTORS_HINT = "Raise the limit of open files (ulimit -n, LimitNOFILE=), or set fewer workers."
_REACH_HINT = "Check base_url, the network and the proxy."
_TRUST_HINT = "If a proxy inspects TLS or the API uses a private CA, set ca_file under [aluma]."


class _ConnectionLost(aiohttp.ClientError):
    """The connection broke at a point where the request may already have been sent."""


async def prevent_resend(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Prevent aiohttp from silently sending a PUT again after a disconnect.

    aiohttp decides by the type of the exception, so this middleware replaces it.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(type(error).__name__) from None


def map_transport_error(operation: str, error: Exception, *, changes: bool) -> SourceError:
    """Return the error for one of ``TRANSPORT_ERRORS``. No other function depends on aiohttp's exception types.

    ``changes``: whether the request changes a task. Raise the result ``from None``, because the text of an aiohttp
    exception can contain the token.
    """
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        hint = _TRUST_HINT if isinstance(error, aiohttp.ClientConnectorCertificateError) else _REACH_HINT
        of_machine = getattr(getattr(error, "os_error", None), "errno", None) in _NO_DESCRIPTORS
        text = f"{operation}: no connection to {_peer(error)} ({_safe_reason(error)})"
        unreachable = Unreachable(text, hint=_DESCRIPTORS_HINT if of_machine else hint)
        unreachable.of_machine = of_machine
        return unreachable
    if isinstance(error, aiohttp.ClientHttpProxyError):  # The tunnel was not opened, so the request was not sent.
        target = error.request_info.url
        text = f"{operation}: the proxy answered {error.status} to a connection to {target.host}:{target.port}"
        return Unreachable(text, hint=PROXY_HINT)
    if isinstance(error, aiohttp.ClientPayloadError):
        return (Ambiguous if changes else InvalidResponse)(f"{operation}: the response is incomplete")
    kind = Ambiguous if changes else Unavailable
    return kind(f"{operation}: no response ({_safe_reason(error)})", overloaded=isinstance(error, TimeoutError))


def _peer(error: Exception) -> str:
    """Return host and port, and those of the proxy, for a connection that was not made."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):  # "Connection timeout to host URL"
        with suppress(ValueError):
            if (url := URL(str(error).rpartition(" ")[2])).host:
                return f"{url.host}:{url.port}"
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    if not host:
        return "the server"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {host}:{port}"
    proxy = getattr(getattr(error, "_conn_key", None), "proxy", None)
    return f"{host}:{port}" + (f" through the proxy {proxy.host}:{proxy.port}" if proxy else "")


def _safe_reason(error: Exception) -> str:
    """Return a short reason without URLs, headers or bodies."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) if isinstance(error, _ConnectionLost) else type(error).__name__
