"""Locations of the config file and of the state folder."""

import contextlib
import os
from pathlib import Path

from aluma_async.config import Config, ExporterConfig
from aluma_async.config.paths import find_config_file


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
