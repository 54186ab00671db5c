"""The ``[service]`` section of the configuration."""

import pytest

from aluma_async.config import ServiceConfig
from aluma_async.exceptions import ConfigError


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("", None),
    ],
)
def test_listen_without_a_host_means_loopback(listen, address):
    assert ServiceConfig(listen=listen).listen_address == address


@pytest.mark.parametrize("listen", ["host", "host:", ":x", "1.2.3.4:65536", "http://x:1/", "a b:1"])
def test_listen_is_refused_when_it_is_no_address(listen):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        ServiceConfig(listen=listen)


def test_notify_url_is_refused_without_repeating_it_when_it_is_no_url():
    with pytest.raises(ConfigError, match="notify_url") as caught:
        ServiceConfig(notify_url="secret-canary")
    assert "canary" not in str(caught.value)
