"""Where the config file is looked for and the state is kept: systemd's folders, else the platform's."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

_APP = "aluma-async"


def find_config_file(environ: Mapping[str, str]) -> Path | None:
    """Tell which file to read: the one named in the environment, even if it is missing, else the first that exists."""
    if named := environ.get("ALUMA_ASYNC_CONFIG"):
        return Path(named)
    return next((path for path in _usual_config_files(environ) if path.is_file()), None)


def default_state_folder(environ: Mapping[str, str]) -> Path:
    """Tell where state is kept if nothing was said: systemd's ``$STATE_DIRECTORY``, else the user's state folder."""
    return systemd_folder(environ, "STATE_DIRECTORY") or platformdirs.user_state_path(_APP, appauthor=False)


def systemd_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    """Take the first of the folders that systemd names in ``variable``."""
    first = environ.get(variable, "").split(os.pathsep)[0]
    return Path(first) if first else None


def _usual_config_files(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path("config.toml")
    if folder := systemd_folder(environ, "CONFIGURATION_DIRECTORY"):
        yield folder / "config.toml"
    yield platformdirs.user_config_path(_APP, appauthor=False) / "config.toml"
    yield platformdirs.site_config_path(_APP, appauthor=False) / "config.toml"
