"""``[fleet]``: addresses of the store."""

import pytest

from aluma_async.config import Config, FleetConfig
from aluma_async.config.fleet import is_unencrypted_store, sqlite_folder
from aluma_async.config.processes import config_of_process
from aluma_async.exceptions import ConfigError
from aluma_async.policy.partition import Partition


def read(text, folder=None):
    return Config.from_toml(f"[fleet]\n{text}", "my.toml", folder=folder).fleet


@pytest.mark.parametrize(
    "url",
    ["redis://store:6379/0", "rediss://:secret@store", "unix:///run/valkey.sock", "sqlite:/var/lib/f", "sqlite:///f"],
)
def test_store_accepts_the_address(url):
    assert FleetConfig(url=url).is_enabled
    assert FleetConfig(url=url).store_url({}) == url


@pytest.mark.parametrize("url", ["http://store", "store:6379", "redis://", "sqlite:", "unix://", "redis://:canary@"])
def test_store_refuses_another_address(url):
    """The message does not repeat it, because it may contain a password."""
    with pytest.raises(ConfigError, match="url = ") as caught:
        read(f'url = "{url}"')
    assert "canary" not in str(caught.value)


def test_store_refuses_two_addresses():
    with pytest.raises(ConfigError, match="set together with url_env"):
        read('url = "redis://store"\nurl_env = "URL"')


def test_store_url_is_read_from_a_private_file_or_the_environment(tmp_path):
    file = tmp_path / "url"
    file.write_text("redis://store\n")
    file.chmod(0o600)
    assert read(f'url_file = "{file}"').store_url({}) == "redis://store"
    assert read('url_env = "URL"').store_url({"URL": "redis://store"}) == "redis://store"
    with pytest.raises(ConfigError, match="URL is not set"):
        read('url_env = "URL"').store_url({})
    with pytest.raises(ConfigError, match="url_env: not a URL"):
        read('url_env = "URL"').store_url({"URL": "canary"})


def test_sqlite_folder_is_relative_to_the_configuration_file(tmp_path):
    assert sqlite_folder(read('url = "sqlite:fleet"', tmp_path).url) == tmp_path / "fleet"
    assert sqlite_folder(read('url = "sqlite:///fleet"', tmp_path).url) == sqlite_folder("sqlite:/fleet")
    assert sqlite_folder("redis://store") is None


def test_url_is_hidden_in_the_representation():
    assert "canary" not in repr(FleetConfig(url="redis://user:canary@store"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [("redis://store", True), ("redis://127.0.0.1", False), ("redis://localhost", False), ("rediss://store", False)],
)
def test_store_is_unencrypted_only_over_a_network(url, expected):
    assert is_unencrypted_store(url) is expected


@pytest.mark.parametrize("line", ["silent_seconds = 59", "nodes = -1", "name = 3"])
def test_fleet_refuses_values_outside_the_range(line):
    with pytest.raises(ConfigError, match=line.split()[0]):
        read(line)


def test_processes_of_a_fleet_keep_the_limits():
    """The fleet divides them; until the store is reached, the number of processes does."""
    text = '[fleet]\nurl = "redis://store"\n[limits]\nmax_at_once = 12\nmax_per_second = 6'
    config = config_of_process(Config.from_toml(text, "my.toml"), Partition(2, 4))
    assert (config.limits.max_at_once, config.limits.max_per_second, config.fleet.nodes) == (12, 6, 4)
