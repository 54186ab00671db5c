"""The ``[aluma]`` section of the configuration: valid base URLs."""

import pytest

from aluma_async.config import AlumaConfig, Config
from aluma_async.exceptions import ConfigError

CANARY = "canary-3f9a"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.aluma.io",
        "https://h/v1/",
        "https://h:8443",
        "http://localhost:80",
        "http://127.3.2.1",
        "http://[::1]:8",
    ],
)
def test_base_url_is_accepted(url):
    assert AlumaConfig(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.aluma.io",
        "ftp://api.aluma.io",
        "https://",
        "https://h?x=1",
        "https://h#x",
        "https://h/?",
        "https://h:port",
        "https://h:99999",
        "https://a b",
        "https://h\n",
        "https://h\\x",
        f"https://user:{CANARY}@h",
        "http://aluma.example",
        "http://localhost.example",
        "http://10.0.0.1",
    ],
)
def test_base_url_is_refused_without_repeating_a_password(url):
    with pytest.raises(ConfigError) as caught:
        AlumaConfig(base_url=url)
    assert CANARY not in str(caught.value) + caught.value.hint


def test_plain_http_to_another_host_can_be_allowed_with_a_warning():
    config = Config(aluma=AlumaConfig(base_url="http://aluma.example", allow_insecure=True))
    assert any("unencrypted" in warning for warning in config.warnings())
