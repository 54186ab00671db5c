"""Errors of connections: what their messages name."""

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aluma_async.aluma.transport_errors import map_transport_error
from aluma_async.exceptions import Ambiguous, InvalidResponse, Unavailable, Unreachable

REFUSED = OSError(111, "Connection refused")
PROXY = URL("http://proxy.test:8080")


def key(host="api.test", port=443, proxy=None):
    return ConnectionKey(host, port, True, True, proxy, None, None)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (aiohttp.ClientConnectorError(key(), REFUSED), "api.test:443 (Connection refused)"),
        (
            aiohttp.ClientConnectorError(key(proxy=PROXY), REFUSED),
            "api.test:443 through the proxy proxy.test:8080 (Connection refused)",
        ),
        (
            aiohttp.ClientProxyConnectionError(key("proxy.test", 8080), REFUSED),
            "the proxy proxy.test:8080 (Connection refused)",
        ),
        (aiohttp.ClientConnectorError(key(""), REFUSED), "the server (Connection refused)"),
        (aiohttp.ClientConnectorError(key(), OSError("secret")), "api.test:443 (ClientConnectorError)"),
        (
            aiohttp.ConnectionTimeoutError("Connection timeout to host https://api.test/v1/tasks?state=pending"),
            "api.test:443 (ConnectionTimeoutError)",
        ),
        (aiohttp.ConnectionTimeoutError("Connection timeout"), "the server (ConnectionTimeoutError)"),
    ],
)
@pytest.mark.parametrize("changes", [True, False])
def test_error_of_a_connection_names_host_port_and_proxy(error, text, changes):
    """The request was certainly not sent."""
    mapped = map_transport_error("list tasks", error, changes=changes)
    assert type(mapped) is Unreachable
    assert str(mapped) == f"list tasks: no connection to {text}"
    assert "network" in mapped.hint


def test_refusal_of_a_proxy_names_the_target():
    headers = CIMultiDictProxy(CIMultiDict())
    error = aiohttp.ClientHttpProxyError(RequestInfo(URL("https://api.test/v1"), "GET", headers), (), status=407)
    mapped = map_transport_error("list tasks", error, changes=True)
    assert type(mapped) is Unreachable
    assert str(mapped) == "list tasks: the proxy answered 407 to a connection to api.test:443"
    assert "proxy" in mapped.hint


@pytest.mark.parametrize("changes", [True, False])
def test_request_without_a_response_may_have_been_executed(changes):
    """Only the class of the error is named, because its text may contain the token."""
    for error in (TimeoutError("secret"), aiohttp.ServerDisconnectedError("secret")):
        mapped = map_transport_error("start", error, changes=changes)
        assert type(mapped) is (Ambiguous if changes else Unavailable)
        assert str(mapped) == f"start: no response ({type(error).__name__})"
        assert mapped.overloaded is isinstance(error, TimeoutError)
    mapped = map_transport_error("start", aiohttp.ClientPayloadError("secret"), changes=changes)
    assert type(mapped) is (Ambiguous if changes else InvalidResponse)
    assert str(mapped) == "start: the response is incomplete"
