"""Locations of the config file and of the state folder: systemd's folders, otherwise the platform's."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

_APP = "aluma-async"


def find_config_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file that the environment names, even if it is missing, otherwise the first one that exists."""
    if named := environ.get("ALUMA_ASYNC_CONFIG"):
        return Path(named)
    return next((path for path in _search_path(environ) if path.is_file()), None)


def default_state_folder(environ: Mapping[str, str]) -> Path:
    """Return systemd's ``$STATE_DIRECTORY``, otherwise the user's state folder."""
    return systemd_folder(environ, "STATE_DIRECTORY") or platformdirs.user_state_path(_APP, appauthor=False)


def systemd_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first folder of a list that systemd sets in ``variable``."""
    first = environ.get(variable, "").split(os.pathsep)[0]
    return Path(first) if first else None


def _search_path(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path("config.toml")
    if folder := systemd_folder(environ, "CONFIGURATION_DIRECTORY"):
        yield folder / "config.toml"
    yield platformdirs.user_config_path(_APP, appauthor=False) / "config.toml"
    yield platformdirs.site_config_path(_APP, appauthor=False) / "config.toml"
