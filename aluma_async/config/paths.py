"""Locations of the config file and of the state folder: systemd's folders, otherwise the platform's."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import platformdirs

from aluma_async.exceptions import ConfigError

_APP = "aluma-async"


def find_config_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file that the environment names, even if it is missing, otherwise the first one that exists.

    Raises ``ConfigError`` if other users can write the one in the working folder.
    """
    if named := environ.get("ALUMA_ASYNC_CONFIG"):
        return Path(named)
    local = Path("config.toml")
    if local.is_file():
        _check_trusted(local)
        return local
    return next((path for path in _search_path(environ) if path.is_file()), None)


def default_state_folder(environ: Mapping[str, str]) -> Path:
    """Return systemd's ``$STATE_DIRECTORY``, otherwise the user's state folder."""
    try:
        return systemd_folder(environ, "STATE_DIRECTORY") or platformdirs.user_state_path(_APP, appauthor=False)
    except RuntimeError:
        reason = "state folder: the home folder of this user is not known"
        raise ConfigError(reason, hint="Set --state or HOME.") from None


def resolve(folder: Path | None, path: str) -> str:
    """Return a path of a configuration file in ``folder``: relative to it, with ``~`` as the user's home folder."""
    if path.startswith("~") or folder is None:
        return path
    return str(folder / path)


def systemd_folder(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first folder of a list that systemd sets in ``variable``."""
    first = environ.get(variable, "").split(os.pathsep)[0]
    return Path(first) if first else None


def _check_trusted(path: Path) -> None:
    """Raise ``ConfigError`` if another user than this one and root owns or can write a file or its folder."""
    if os.name != "posix":
        return
    for one in (path, path.parent):
        status = one.stat()
        writable = status.st_mode & 0o022
        if writable == stat.S_IWGRP and _is_private_group(status.st_gid):
            writable = 0
        if status.st_uid not in (os.geteuid(), 0) or writable:
            name = path if one == path else f"the folder of {path}"
            raise ConfigError(
                f"{name}: other users can write it, so it is not used",
                hint=f"Run: chmod go-w . {path}, as its owner, or name the file with --config.",
            )


def _is_private_group(gid: int) -> bool:
    """Return whether a group belongs to this user alone, as many systems create one for each user, with umask 002."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _search_path(environ: Mapping[str, str]) -> Iterator[Path]:
    if folder := systemd_folder(environ, "CONFIGURATION_DIRECTORY"):
        yield folder / "config.toml"
    with suppress(RuntimeError):  # the home folder of this user is not known
        yield platformdirs.user_config_path(_APP, appauthor=False) / "config.toml"
    yield platformdirs.site_config_path(_APP, appauthor=False) / "config.toml"
