"""Locations of the config file and of the state folder."""

import contextlib
import grp
import os
import pwd
from pathlib import Path

import pytest

from aluma_async.config import Config, ExporterConfig
from aluma_async.config.destinations import ObjectStoreConfig, SqlConfig
from aluma_async.config.paths import find_config_file
from aluma_async.exceptions import ConfigError


def test_find_config_file_prefers_the_environment_then_the_working_folder(tmp_path):
    """A file that the environment names is never skipped, even if it is missing."""
    systemd_folder = tmp_path / "systemd"
    systemd_folder.mkdir()
    (systemd_folder / "config.toml").touch()
    environ = {"CONFIGURATION_DIRECTORY": f"{systemd_folder}{os.pathsep}/nowhere"}
    with contextlib.chdir(tmp_path):
        assert find_config_file(environ) == systemd_folder / "config.toml"
        assert find_config_file({**environ, "ALUMA_ASYNC_CONFIG": "missing.toml"}) == Path("missing.toml")
        Path("config.toml").touch()
        assert find_config_file(environ) == Path("config.toml")


def test_state_folder_comes_from_config_then_systemd_then_platform():
    assert Config().state_folder({"STATE_DIRECTORY": "/s"}) == Path("/s")
    config = Config(exporter=ExporterConfig(state=Path("/t")))
    assert config.state_folder({"STATE_DIRECTORY": "/s"}) == Path("/t")
    assert "aluma-async" in str(Config().state_folder({}))


@pytest.mark.parametrize(
    ("file_mode", "folder_mode"), [(0o666, 0o755), (0o664, 0o755), (0o644, 0o1777), (0o644, 0o775)]
)
def test_config_file_of_the_working_folder_is_refused_when_others_can_write(
    tmp_path, file_mode, folder_mode, monkeypatch
):
    """Another user could otherwise decide where documents are sent. The group has another member."""
    use_group(monkeypatch, "me", ["me", "other"])
    (tmp_path / "config.toml").touch()
    tmp_path.chmod(0o755)
    with contextlib.chdir(tmp_path):
        assert find_config_file({}) == Path("config.toml")
        (tmp_path / "config.toml").chmod(file_mode)
        tmp_path.chmod(folder_mode)
        with pytest.raises(ConfigError, match="other users can write it") as caught:
            find_config_file({})
        assert "--config" in caught.value.hint


def use_group(monkeypatch, name, members):
    """Let this user, ``me``, have a group of a name as the main one, which the files of this process have."""
    gid = os.getegid()
    monkeypatch.setattr("pwd.getpwuid", lambda _: pwd.struct_passwd(("me", "x", os.geteuid(), gid, "", "/", "/")))
    monkeypatch.setattr("grp.getgrgid", lambda _: grp.struct_group((name, "x", gid, members)))


@pytest.mark.parametrize(("name", "members", "is_used"), [("me", [], True), ("me", ["me"], True), ("users", [], False)])
def test_config_file_may_be_writable_for_the_group_of_this_user_alone(tmp_path, monkeypatch, name, members, is_used):
    """Many systems create one for each user, and files with umask 002; ``users`` is one of all."""
    use_group(monkeypatch, name, members)
    tmp_path.chmod(0o775)
    (tmp_path / "config.toml").touch(0o664)
    (tmp_path / "config.toml").chmod(0o664)
    with contextlib.chdir(tmp_path):
        if is_used:
            assert find_config_file({}) == Path("config.toml")
        else:
            with pytest.raises(ConfigError, match="other users can write it"):
                find_config_file({})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("given", ["config.toml", "."])
def test_config_file_of_the_working_folder_is_refused_when_others_own_it(tmp_path, given):
    tmp_path.chmod(0o755)
    (tmp_path / "config.toml").touch(0o644)
    os.chown(tmp_path / given, 54321, -1)
    with contextlib.chdir(tmp_path), pytest.raises(ConfigError, match="other users"):
        find_config_file({})


def test_relative_paths_of_a_file_are_relative_to_its_folder(tmp_path):
    """Those of options are relative to the working folder. Secrets and databases are paths, too."""
    (tmp_path / "my.toml").write_text("""
        [aluma]
        client_secret_file = "secret"
        [exporter]
        state = "state"
        [destinations.a]
        type = "folder"
        path = "out"
        [destinations.b]
        type = "sql"
        url = "sqlite:///db/ledger.db?timeout=5"
        table = "t"
        [destinations.c]
        type = "object-store"
        url = "s3://bucket/x"
        options = { secret_access_key = { file = "key" }, region = "eu" }
    """)
    config = Config.load(tmp_path / "my.toml", {"exporter": {"state": "other"}})
    assert config.aluma.client_secret_file == tmp_path / "secret"
    assert config.exporter.state == Path("other")
    a, b, c = config.destinations.values()
    assert a.description == str(tmp_path / "out")
    assert isinstance(b, SqlConfig)
    assert b.url == f"sqlite:///{tmp_path}/db/ledger.db?timeout=5"
    assert isinstance(c, ObjectStoreConfig)
    assert c.options == {"secret_access_key": {"file": str(tmp_path / "key")}, "region": "eu"}


@pytest.mark.parametrize("url", ["sqlite:////srv/a.db", "sqlite:///:memory:", "sqlite://", "postgresql://h/db"])
def test_absolute_urls_of_databases_are_kept(tmp_path, url):
    (tmp_path / "my.toml").write_text(f"[destinations.b]\ntype = 'sql'\nurl = '{url}'\ntable = 't'")
    assert Config.load(tmp_path / "my.toml").destinations["b"].url == url


def test_unknown_home_folder_matters_only_where_it_is_used(monkeypatch):
    """A container may run as a user without a name and with no HOME."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987654)
    assert find_config_file({}) is None
    assert Config(exporter=ExporterConfig(state=Path("/t"))).state_folder({}) == Path("/t")
    with pytest.raises(ConfigError, match="home folder") as caught:
        Config().state_folder({})
    assert "--state" in caught.value.hint
    with pytest.raises(ConfigError, match="home folder"):
        Config.from_toml("[exporter]\nstate = '~/x'", "my.toml")
