"""The options of an object store in the configuration: where their values come from, and errors without secrets."""

import anyio
import pytest

from aluma_async.config import Config
from aluma_async.destinations.object_store.destination import ObjectStoreDestination
from aluma_async.destinations.registry import open_destinations
from aluma_async.exceptions import ConfigError


def read_config(text):
    return Config.from_toml(f"[destinations.a]\ntype = 'object-store'\nurl = 's3://bucket/x'\n{text}", "c.toml")


def open_and_close(text):
    async def main():
        config = read_config(text)
        async with open_destinations(config.destinations, config.state_folder()):
            pass

    anyio.run(main)


def test_option_values_come_from_file_environment_or_secret_file(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("canary-1\n")
    secret.chmod(0o600)
    text = (
        f"options = {{ region = 'x', secret_access_key = {{ file = '{secret}' }}, access_key_id = {{ env = 'ID' }},"
        " allow_http = true }"
    )
    monkeypatch.setenv("ID", "canary-2")
    destination = read_config(text).destinations["a"]
    assert destination.read_options({"ID": "canary-2"}) == {
        "region": "x",
        "secret_access_key": "canary-1",
        "access_key_id": "canary-2",
        "allow_http": True,
    }
    assert "canary" not in repr(destination) + destination.description
    open_and_close(text)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="other users can access"):
        open_and_close(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("options = { secret_access_key = ['canary'] }", "options = '…'"),
        ("options = { zzz = 'canary' }", r"\[destinations.a\] options: Configuration key: 'zzz' is not valid"),
        ("options = { region = { env = 'NOT_SET_ANYWHERE' } }", "options.region: NOT_SET_ANYWHERE is not set"),
        ("options = { region = { fil = 'canary' } }", "options.region: neither a value nor its source"),
    ],
)
def test_invalid_option_is_reported_without_its_value(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_and_close(text)
    assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_unsupported_url_scheme_is_refused_without_repeating_the_url():
    with pytest.raises(ConfigError, match="url: 'ftp' is not supported") as caught:
        ObjectStoreDestination("ftp://canary:canary@x")
    assert "canary" not in f"{caught.value} {caught.value.hint}"
