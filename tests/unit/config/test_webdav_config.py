"""The configuration of a WebDAV destination: errors without secrets, and plain http."""

import pytest

from aluma_async.config import Config
from aluma_async.exceptions import ConfigError


def read_config(text):
    return Config.from_toml(f"[destinations.a]\ntype = 'webdav'\n{text}", "c.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("url = 'http://dav.example/x'", "unencrypted"),
        ("url = 'https://me:canary@dav.example/x'", "contains a user name or a password"),
        ("url = ['https://me:canary@dav.example/x']", "url = '…'"),
        ("url = 'https://dav.example/x'\nusername = 'me'", "require each other"),
        ("url = 'https://dav.example/x'\npasword_file = 'x'", "unknown key 'pasword_file'"),
    ],
)
def test_webdav_mistake_is_reported_without_secrets(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(text)
    assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_webdav_over_plain_http_can_be_allowed():
    assert read_config("url = 'http://dav.example/x'\nallow_insecure = true").destinations["a"].allow_insecure
