"""``KeptFiles``: the finished files of interrupted deliveries, kept in a folder for the next attempt of their tasks.

The name of a kept file records its size, its version at the server, and the boot in which it was written unless it was
synced. So this record is never lost or mixed up without the file. A file that a power loss may have damaged is not used
again. Whether the server still has the same version is for the caller to check. All of it blocks.
"""

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

KEEP_SECONDS = 7 * 86400.0
"""How long a finished file is kept for the next attempt. A task may be parked for hours; Aluma keeps it for 72 h."""

_NAME = re.compile(r"(?P<key>[0-9a-f]{32}-\d+)\.(?P<size>\d+)\.(?P<boot>[0-9a-f]*)\.(?P<version>\w+)", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)


class KeptFile(NamedTuple):
    """A file that was saved completely by an interrupted delivery."""

    size: int
    version: str


class KeptFiles:
    """The files in ``folder``, by the key of their specification and number.

    ``boot`` identifies the current boot; empty if only synced files may be used.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder = folder
        self._boot = hashlib.sha256(boot.encode()).hexdigest()[:16] if boot else ""
        self._files: dict[str, tuple[str, KeptFile]] = {}

    def __bool__(self) -> bool:
        return bool(self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def load(self, now: float) -> None:
        """List the files, and remove those that are too old or that a power loss may damage or have damaged."""
        self._files = {}
        with suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)  # earlier versions recorded nothing in the name
                if match and match["boot"] in ("", self._boot) and path.lstat().st_mtime >= now - KEEP_SECONDS:
                    self._files[match["key"]] = path.name, KeptFile(int(match["size"]), match["version"])
                else:
                    path.unlink()

    def store(self, staged: Path, key: str, file: KeptFile, *, synced: bool) -> None:
        """Keep a staged file for a later attempt. Raises ``OSError``; without a version nothing is kept."""
        if _VERSION.fullmatch(file.version):
            name = f"{key}.{file.size}.{'' if synced else self._boot}.{file.version}"
            self._folder.mkdir(exist_ok=True, mode=0o700)
            staged.replace(self._folder / name)
            earlier, self._files[key] = self._files.get(key), (name, file)
            if earlier and earlier[0] != name:
                (self._folder / earlier[0]).unlink(missing_ok=True)

    def take(self, key: str, staged: Path) -> tuple[KeptFile, os.stat_result] | None:
        """Move a kept file to the staging folder; None if there is none, or if it is not as it was stored."""
        if (known := self._files.pop(key, None)) is None:
            return None
        name, file = known
        with suppress(FileNotFoundError):
            (self._folder / name).replace(staged)
            status = staged.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == file.size:
                return file, status
            staged.unlink()
        return None
